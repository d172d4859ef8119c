"""What the short run leaves out is only what the part under test can't tell from what it runs."""

import inspect
import re

import pytest

from mpisign.algorithms import slots as slot_classes
from tests.cover import COVER, SLOTS, WIRES, algorithm_of, form_id, kind, slots, wire
from tests.faults import FAULTS, place_of
from tests.running import ROOT
from tests.table import FORMS_BY_ROW


@pytest.mark.parametrize("form", FORMS_BY_ROW, ids=form_id)
def test_every_form_has_a_representative(form):
    assert wire(algorithm_of(form)) in {wire(algorithm_of(one)) for one in WIRES}


def test_representatives_differ():
    assert len({wire(algorithm_of(form)) for form in WIRES}) == len(WIRES)
    assert len(WIRES) < len(FORMS_BY_ROW) / 2


def of_the_package(base) -> set[str]:
    """Names of the public classes of a slot in the modules of slots, whatever they derive from; no abstract ones."""
    below = {deep for cls in base.__subclasses__() for deep in _below(cls) if "__dataclass_params__" in vars(deep)}
    modules = re.compile(r"mpisign\.(\w+\.)*(estimators|signs|votes|updates)\b")
    return {c.__name__ for c in below if modules.match(c.__module__) and not c.__name__.startswith("_")}


def _below(cls) -> set[type]:
    return {cls, *(deep for sub in cls.__subclasses__() for deep in _below(sub))}


@pytest.mark.parametrize("base", ["Estimator", "SignRule", "Vote", "Update"])
def test_no_class_of_a_slot_is_missed(base):
    classes = of_the_package(getattr(slot_classes, base))
    assert len(classes) > 4
    assert classes <= {name for form in COVER for name in slots(algorithm_of(form))}


def test_votes_and_messages_are_all_on_the_wire():
    every, chosen = ({part for form in forms for part in _words(form)} for forms in (FORMS_BY_ROW, WIRES))
    assert every == chosen


def _words(form):
    for stage in algorithm_of(form).stages:
        yield type(stage.vote).__name__
        yield kind(stage.sign.up())


def test_a_cover_is_a_part_of_the_table():
    assert len(COVER) < len(FORMS_BY_ROW)
    assert all(form in FORMS_BY_ROW for form in (*COVER, *WIRES))


def test_what_a_wire_sees_changes_it(monkeypatch):
    """A signature that left out a trait would let forms stand for others that they are not like."""
    algorithm = algorithm_of(("signsgd-mv", {}))
    before = wire(algorithm)
    for slot, trait, value in (
        ("vote", "needs_ballots", True), ("vote", "shares", True), ("vote", "stateful", True),
        ("estimator", "reports", 3), ("estimator", "agrees", True), ("sign", "side_information", lambda self: "radii"),
        ("update", "values", lambda *_: 1),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(type(getattr(algorithm, slot)), trait, value)
            assert wire(algorithm) != before
    assert set(SLOTS) == set(inspect.signature(type(algorithm)).parameters) - {"name", "dense"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_deliberate_fault_still_has_its_place(fault):
    assert place_of(fault.text, ROOT / "mpisign").is_file()
