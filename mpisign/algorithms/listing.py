"""The zoo as text, for `mpisign algorithms`."""

import sys
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from mpisign import plugins
from mpisign.algorithms.formats import Format, of_method
from mpisign.algorithms.method import Algorithm, Method, evaluations_at, per_step, values_at
from mpisign.algorithms.registry import Entry, Heterogeneous, entries
from mpisign.algorithms.zoo.absent import ABSENT
from mpisign.layout import Layout

VOTERS, BATCH, ROWS, STEPS = 8, 32, 3200, 1000  # for which costs are told
NOMINAL = Layout({"x": (1024, 1024)})  # for which a list is narrowed down by bits, some of which go by shapes

HETEROGENEOUS = {
    "proved": "proved to converge where voters' rows are unlike",
    "refuted": "known not to converge in general where voters' rows are unlike",
    "claimed": "claimed by its paper to converge where voters' rows are unlike; the proof was not seen",
    "open": "not known to us, or not looked up, where voters' rows are unlike",
}


@dataclass(frozen=True)
class Filter:
    """Which entries are asked for. What is None or empty lets all pass.

    bits: the most by bits_per_step(), at default hyperparameters. years: of the paper, first and last. heterogeneous:
    what is known where voters' rows are unlike. offers: what the user's problem offers besides gradients; see
    Estimator.needs.
    """

    bits: float | None = None
    years: tuple[int, int] | None = None
    heterogeneous: Heterogeneous | None = None
    offers: frozenset[str] | None = None

    def __call__(self, entry: Entry) -> bool:
        built = entry.build()
        return (
            (self.bits is None or bits_per_step(built) <= self.bits)
            and (self.years is None or self.years[0] <= entry.year <= self.years[1])
            and self.heterogeneous in (None, entry.heterogeneous)
            and (self.offers is None or built.needs <= self.offers)
        )


def bits_per_step(method: Method) -> float:
    """Bits that a rank of VOTERS sends per coordinate of NOMINAL and step in the last stage, messages and verdicts.

    They are those that run files count, with what voters average, and the numbers that they tell in headers. Radii that
    are shared now and then are left out.
    """
    stage, others = method.stages[-1], VOTERS - 1
    averaged, told = 64 * others * stage.estimator.shared_floats(NOMINAL), 64 * others * stage.estimator.reports
    of_all = sum(of_method(NOMINAL, *formats(stage), VOTERS)) + averaged + VOTERS * told
    return of_all / VOTERS / NOMINAL.size


def needs_of_all() -> list[str]:
    """Whatever an entry needs besides gradients, sorted."""
    return sorted(frozenset().union(*(entry.build().needs for entry in entries())))


def listing(chosen: Iterable[Entry]) -> str:
    """A line of summary and one of paper and costs for each entry."""
    head = (
        f"bits per coordinate at n = {VOTERS}: of a message up, of a verdict down, and all that a rank sends in a "
        "step; gradient evaluations per row of the batch and step\n"
    )
    return head + "\n".join(f"{e.name:20} {e.summary}\n{'':20} {e.paper}; {_costs(e)}" for e in chosen)


def absent() -> str:
    """The methods that are no entries, each with its reason and what comes nearest."""
    texts = (f"{m.name} ({m.paper}): {m.reason}. Nearest: {m.instead}" for m in ABSENT)
    return "\n".join(_wrap(text, "    ") for text in texts)


def markdown(chosen: Iterable[Entry]) -> str:
    """A table for each module of entries under the first line of its docstring, for mpisign/algorithms/README.md."""
    tables = []
    for module, rows in groupby(chosen, lambda entry: entry.make.__module__):
        title = (sys.modules[module].__doc__ or module).partition("\n")[0]
        head = ["| name | method | paper | bits | evaluations |", "|---|---|---|---|---|"]
        tables.append("\n".join([f"**{title}**", "", *head, *map(_row, rows)]))
    return "\n\n".join(tables)


def _row(entry: Entry) -> str:
    stage = entry.build().stages[-1]
    up, down = (f"{form.bits:.3g}" for form in formats(stage))
    beside = "".join(f" and {name}" for name in _beside(stage))
    values = f", {v:.3g} function values" if (v := function_values(entry)) else ""
    method, paper = (text.replace("|", r"\|").replace("*", r"\*") for text in (entry.summary, entry.paper))
    name, evaluated = f"[`{entry.name}`](methods/{entry.name}.md)", f"{evaluations(entry):.3g}{values}"
    return f"| {name} | {method} | {paper} | {up}, {down}{beside} | {evaluated} |"


def describe(entry: Entry) -> str:
    """Signature, paper, needs, costs, what is known, docstring and definition of one entry."""
    lines = [_wrap(f"{entry.name}({entry.signature})", "    "), ""]
    lines += [_wrap(f"{name}: {text}", "    ") for name, text in facts_of(entry).items()]
    return "\n".join([*lines, "", plugins.docstring(entry.make), "", repr(entry.build())])


def facts_of(entry: Entry) -> dict[str, str]:
    """Paper, needs, costs and what is known of one entry, each in words."""
    built = entry.build()
    cost = f"{evaluations(entry):.3g} per row of the batch and step"
    facts = {
        "paper": entry.paper,
        "lr": f"{entry.lr} by default: where a search may begin, tuned for no job of yours",
        "needs": ", ".join(sorted(built.needs)) or "nothing but gradients",
        "preset": f"theory ({plugins.docstring(entry.theory)})" if entry.theory else "none",
        "gradient evaluations": f"{cost} (batches of {BATCH} from {ROWS} rows, mean of {STEPS} steps)",
    }
    if values := function_values(entry):
        facts["function values"] = f"{values:.3g} per row of the batch and step"
    for k, stage in enumerate(built.stages):
        which = f"stage {k + 1}: " if len(built.stages) > 1 else ""
        up, down = formats(stage)
        facts[f"{which}up"] = "; ".join([_bits(up), *_beside(stage).values()])
        facts[f"{which}down"] = f"{_bits(down)} at n = {VOTERS}"
    return facts | {"known": entry.known, "heterogeneous data": HETEROGENEOUS[entry.heterogeneous]}


def _wrap(text: str, indent: str) -> str:
    return textwrap.fill(text, 112, subsequent_indent=indent, break_on_hyphens=False)


def _costs(entry: Entry) -> str:
    stage = entry.build().stages[-1]
    up, down = (f"{form.bits:.3g}" for form in formats(stage))
    beside = "".join(f" beside shared {name}" for name in _beside(stage))
    values = f"; function values {v:.3g}" if (v := function_values(entry)) else ""
    sent = f"sent {bits_per_step(entry.build()):.3g}"
    return f"bits up {up}, down {down}, {sent}{beside}; evaluations {evaluations(entry):.3g}{values}"


def formats(stage: Algorithm) -> tuple[Format, Format]:
    """What goes up and what comes down at n = VOTERS, with the default rules for zeros and ties."""
    ruled = stage.with_rules("auto", "auto", VOTERS)
    up = ruled.sign.up()
    return up, ruled.vote.down(up, VOTERS)


def _beside(stage: Algorithm) -> dict[str, str]:
    """What is shared beside messages, with its cost: radii, and means on which estimators agree, or votes."""
    kind = "means" if stage.estimator.agrees else "votes"
    told = {"radii": stage.sign.side_information(), kind: stage.estimator.side_information()}
    return {name: text for name, text in told.items() if text}


def _bits(form: Format) -> str:
    if form.raw:
        return "32 bits per coordinate (raw floats)" if form.bits else "nothing more"
    return f"{form.bits:.4g} bit(s) per coordinate" + (" and one float32 per tensor" if form.scaled else "")


def evaluations(entry: Entry) -> float:
    """Gradients of single rows per step, over the rows of a batch."""
    return per_step(evaluations_at, entry.build(), [(BATCH, ROWS)], STEPS) / BATCH


def function_values(entry: Entry) -> float:
    """Function values of single rows per step, likewise."""
    return per_step(values_at, entry.build(), [(BATCH, ROWS)], STEPS) / BATCH
