"""A page for each method of the zoo, written from its entry, for `mpisign algorithms --pages FOLDER`."""

import os
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mpisign import plugins
from mpisign.algorithms.listing import facts_of
from mpisign.algorithms.registry import Entry

# what entries say of what is known that was not read in the source itself
MARKS = ("reconstructed", "secondary text", "third-party", "second-hand", "by others", "could not confirm", "not seen")

SURE = {
    "stated": "the rule is as its source states it; no departure or doubt is known to us",
    "departs": "the rule is known from its source or the authors' code, and departs from it as told above",
    "second-hand": "the rule was in part read in other texts than its source, as told above",
    "reconstructed": "details of the rule are reconstructed, as told above",
    "not said": "how sure the rule is, its entry does not say",
}


def write_pages(entries: Iterable[Entry], folder: Path, jobs: Path) -> list[Path]:
    """Writes NAME.md for each entry, and returns the paths. jobs: a folder of jobs; pages name those that run them."""
    shown = jobs_by_algorithm(jobs)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for entry in entries:
        written.append(folder / f"{entry.name}.md")
        written[-1].write_text(page(entry, shown.get(entry.name, []), folder))
    return written


def page(entry: Entry, jobs: Iterable[Path], folder: Path) -> str:
    """The page of an entry. jobs: those that run it; folder: where the page will be, for links to them."""
    rule = plugins.docstring(entry.make)
    links = [f"[{job.name}]({_relative(job, folder)})" for job in jobs]
    facts = {name: _prose(text) for name, text in facts_of(entry).items()} | {"how sure": how_sure(entry)}
    facts = {"hyperparameters": f"`{entry.signature}`" if entry.signature else "none"} | facts
    facts["jobs"] = ", ".join(links) or f"`mpisign train --set algorithm.name={entry.name}`"
    rows = ["| {} | {} |".format(name, text.replace("|", r"\|").replace("\n", " ")) for name, text in facts.items()]
    symbols = "Symbols are those of [the zoo](../README.md#symbols)."
    definition = ["Built as:", "", "```text", repr(entry.build()), "```"]
    return "\n".join(
        [f"# {entry.name}", "", _prose(rule), "", symbols, "", "| | |", "|---|---|", *rows, "", *definition, ""]
    )


def how_sure(entry: Entry) -> str:
    """How far the rule is its source's, by its entry, and whether what is known was read in the source itself."""
    of_known = any(mark in entry.known for mark in MARKS)
    return SURE[entry.sure] + "; what is known was in part seen second-hand" * of_known


def jobs_by_algorithm(folder: Path) -> dict[str, list[Path]]:
    """The jobs of a folder and of those below it, by the algorithms that they run, points of sweeps too."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.toml")):
        for name in sorted(set(_algorithms(tomllib.loads(path.read_text())))):
            found.setdefault(name, []).append(path)
    return found


def _algorithms(table: dict[str, Any]) -> Iterator[str]:
    """Every name that a table, or one inside of it, gives to an algorithm."""
    for key, value in table.items():
        if key == "algorithm.name" or (key == "algorithm" and isinstance(value, dict)):
            names = value.get("name", []) if isinstance(value, dict) else value
            yield from [names] if isinstance(names, str) else names
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                yield from _algorithms(inner)


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _prose(text: str) -> str:
    """A text as Markdown in which the stars and underscores of formulas are themselves."""
    return text.replace("*", r"\*").replace("_", r"\_")
