"""How errors that all ranks raise together tell which rank has what."""

from collections.abc import Iterable

SHOWN = 8  # ranks, or values, in a message, of many


def by_value(values: Iterable[object]) -> str:
    """Which ranks have which value: "0.1 on rank(s) 0, 2 and 0.2 on rank(s) 1"."""
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(str(value), []).append(rank)
    parts = [f"{value} on rank(s) {_few(having)}" for value, having in ranks.items()]
    return " and ".join(parts[:SHOWN]) + (f" and {len(parts) - SHOWN} other values" if len(parts) > SHOWN else "")


def _few(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:SHOWN]))
    return shown if len(ranks) <= SHOWN else f"{shown}, ... ({len(ranks)} of them)"
