"""The zoo at the command line, for `mpisign algorithms`."""

from pathlib import Path

import click

from mpisign.algorithms import listing, zoo
from mpisign.algorithms.pages import write_pages
from mpisign.algorithms.registry import Entry, Heterogeneous, entries, find
from mpisign.errors import UsageError, choices
from mpisign.paths import jobs_folder

assert zoo  # its entries are in the registry


def describe(name: str) -> None:
    click.echo(listing.describe(find(name)))


def absent() -> None:
    click.echo(listing.absent())


def chosen(
    bits: float | None, since: int | None, until: int | None, heterogeneous: Heterogeneous | None, offers: str | None
) -> list[Entry]:
    """The entries that pass the filters. Raises UsageError where none does, and for needs that no entry has."""
    if bits is not None and not bits >= 0:
        raise UsageError(f"--bits {bits:g}: bits per coordinate, a number from 0 on, as in --bits 2")
    years = None if since is until is None else (since or 1, until or 9999)  # a baseline without a paper has year 0
    passes = listing.Filter(bits, years, heterogeneous, None if offers is None else _offered(offers))
    if found := [entry for entry in entries() if passes(entry)]:
        return found
    raise UsageError("no entry passes all of these filters; leave one out, or widen it")


def print_or_write(found: list[Entry], as_markdown: bool, pages: Path | None) -> None:
    """Prints entries as a list or as tables, or writes a page for each."""
    if pages is None:
        click.echo((listing.markdown if as_markdown else listing.listing)(found))
        return
    try:
        written = write_pages(found, pages, jobs_folder())
    except OSError as error:
        raise UsageError(f"--pages {pages}: {error.strerror}; give a folder that can be written") from error
    click.echo(f"{len(written)} pages in {pages}")


def _offered(text: str) -> frozenset[str]:
    """What a problem offers besides gradients, from words with commas between them."""
    offered = frozenset(word.strip() for word in text.split(",")) - {"none", ""}
    known = listing.needs_of_all()
    if unknown := offered - set(known):
        raise UsageError(f"--offers {choices(unknown)}: entries need none, or some of: {choices(known)}")
    return offered
