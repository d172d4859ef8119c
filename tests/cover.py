"""Which forms of the table a test must run, worked out from what the part under test can tell apart.

An exchange sees formats, votes, headers and what is kept from stage to stage, never an estimator nor an update: forms
that are alike in this (`wire`) are one case to it. What steps through all four slots needs every class of a slot once
(`slots`). tests/test_cover.py guards both; `pytest --all` runs every form all the same.
"""

from dataclasses import fields, is_dataclass

import pytest

from tests.building import Setup
from tests.problems import Awkward
from tests.table import FORMS_BY_ROW

VOTERS = 3  # for which a form is looked at: as many planes of a count as any two travel in


def form_id(form) -> str:
    """The entry's name and the number of the form in the table."""
    return f"{form[0]}-{FORMS_BY_ROW.index(form)}"


def algorithm_of(form, setup=None):
    """The algorithm of a form, its rules for zeros and ties filled in for several voters."""
    name, hyper = form
    return (setup or Setup(Awkward(size=77), VOTERS)).algorithm(name, **hyper)


def wire(algorithm) -> tuple:
    """All that an exchange, or whatever carries words between ranks, can tell of an algorithm."""
    return type(algorithm).__name__, algorithm.keep, *(_wire_of(stage) for stage in algorithm.stages)


def _wire_of(stage) -> tuple:
    up, vote = stage.sign.up(), stage.vote
    traits = type(vote).__name__, vote.needs_ballots, vote.shares, vote.stateful, vote.in_x
    # numbers in the header; means of estimates, values of x and radii that all ranks ask for beside it
    beside = (
        stage.estimator.reports,
        stage.estimator.agrees,
        stage.update.values(1, 0) > 0,
        bool(stage.sign.side_information()),
    )
    return kind(up), kind(vote.down(up, VOTERS)), traits, beside


def kind(form):
    """A format as an exchange sees it: of a code only its class, since sizes differ from chunk to chunk anyway."""
    return type(form).__name__ if form.coded else form


def slots(algorithm) -> set[str]:
    """The classes at work in the slots of all stages, those within a slot included."""
    outer = [getattr(stage, name) for stage in algorithm.stages for name in SLOTS]
    inner = [getattr(slot, f.name) for slot in outer for f in fields(slot)]
    return {type(part).__name__ for part in (algorithm, *outer, *filter(is_dataclass, inner))}


SLOTS = ("estimator", "sign", "vote", "update")
_SETUP = Setup(Awkward(size=77), VOTERS)
_ALGORITHMS = [algorithm_of(form, _SETUP) for form in FORMS_BY_ROW]


def _wires() -> list:
    """The first form of each kind that an exchange can tell apart."""
    first = {}
    for form, algorithm in zip(FORMS_BY_ROW, _ALGORITHMS, strict=True):
        first.setdefault(wire(algorithm), form)
    return list(first.values())


def _cover() -> list:
    """Few forms in which every class of a slot is at work: those with most that is new come first."""
    classes, chosen, seen = [slots(a) for a in _ALGORITHMS], [], set()
    while classes[best := max(range(len(classes)), key=lambda k: len(classes[k] - seen))] - seen:
        chosen.append(FORMS_BY_ROW[best])
        seen |= classes[best]
    return chosen


WIRES, COVER = _wires(), _cover()


def rest_is_slow(params, short, ids=str) -> list:
    """Each of them as the parameter, or tuple of parameters, of a test; those not in `short` run by --all only."""
    marks = [() if p in short else pytest.mark.slow for p in params]
    values = [p if isinstance(p, tuple) else (p,) for p in params]
    return [pytest.param(*v, id=ids(p), marks=m) for p, v, m in zip(params, values, marks, strict=True)]
