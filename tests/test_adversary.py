"""Voters that lie, against what their lies mean one coordinate at a time."""

import numpy as np
import pytest

from mpisign import config
from mpisign.errors import UsageError
from mpisign.problems.synthetic import Quadratic
from mpisign.run.adversary import Adversary
from mpisign.run.plan import resolve
from tests.building import Setup, digest
from tests.problems import Awkward
from tests.running import mpisign
from tests.test_commands import refused

N, LIARS = 7, 3
WORDS = ("signum-mv", "signsgd-mv", "ssdm", "dist-ef-signsgd")


class VerdictHook:
    """Keeps every message as it departs, (n, length): signs -1, 0, 1, or floats."""

    def __init__(self, stepper):
        self.sent = np.zeros((N, stepper.layout.length), dtype=np.float32)
        stepper.exchange.probe = self

    def sending(self, exchange, c):
        lo, hi = exchange.chunks[c]
        for i in range(N):
            message = exchange.packed_into(i, c).numpy()
            self.sent[i, lo:hi] = message[0] if exchange.up.raw else signs(message)

    def decided(self, direction):
        pass


def signs(planes):
    """-1, 0 or 1 a coordinate, from one plane or two."""
    bits = [np.unpackbits(plane.view(np.uint8), bitorder="little").astype(int) for plane in planes.copy()]
    return (2 * bits[0] - 1) * (bits[1] if len(bits) > 1 else 1)


def there(layout):
    """Which coordinates belong to a parameter."""
    found = np.zeros(layout.length, dtype=bool)
    for s in layout.segments:
        found[s.offset : s.end] = True
    return found


def first_step(name, lies=None, zeros="auto", chunk=1 << 20):
    setup = Setup(Awkward(), N)
    stepper = setup.stepper(setup.algorithm(name, zeros), chunk=chunk)
    if lies:
        stepper.exchange.adversary = Adversary(LIARS, *lies, stepper)
    witness = VerdictHook(stepper)
    stepper.step(0.01, counting=True)
    return stepper, witness.sent


@pytest.mark.parametrize("zeros", ["coin", "abstain"])
@pytest.mark.parametrize("kind", ["invert", "random", "constant", "colluding"])
@pytest.mark.parametrize("name", WORDS)
def test_lies_in_signs(name, kind, zeros):
    stepper, sent = first_step(name, (kind, 1.0), zeros)
    _, truth = first_step(name, None, zeros)
    here = there(stepper.layout)
    np.testing.assert_array_equal(sent[LIARS:][:, here], truth[LIARS:][:, here])
    lies, total = sent[:LIARS][:, here], truth[LIARS:][:, here].sum(axis=0)
    if kind == "invert":
        np.testing.assert_array_equal(lies, -truth[:LIARS][:, here])
    elif kind == "constant":
        assert (lies == 1).all()
    elif kind == "random":
        assert set(np.unique(lies)) == {-1, 1}
        assert abs(lies.mean()) < 5 / np.sqrt(lies.size)
        assert not np.array_equal(lies[0], lies[1])
    else:
        assert (lies == lies[0]).all()
        np.testing.assert_array_equal(lies[0][total != 0], -np.sign(total[total != 0]))
    # counted by the vote: unanimous pads must not count for disagreement
    counts, voted = stepper.exchange.counts, sent[:, here].sum(axis=0)
    assert counts.agreement == np.abs(voted).sum()
    assert counts.ties == (voted == 0).sum()


@pytest.mark.parametrize("kind", ["invert", "random", "colluding"])
def test_whatever_can_be_turned_is_turned(kind):
    """x moves along the majority of what was sent; colluding voters turn all that their number can turn."""
    setup = Setup(Awkward(), N)
    x = setup.x.numpy().copy()
    stepper, sent = first_step("signsgd-mv", (kind, 1.0))
    total, here = sent.sum(axis=0), there(stepper.layout)
    moved = np.sign(x - stepper.x.numpy())
    np.testing.assert_array_equal(moved[here], np.sign(total)[here])
    if kind == "colluding":
        honest = sent[LIARS:].sum(axis=0)[here]
        weak = (np.abs(honest) < LIARS) & (honest != 0)
        assert weak.any()
        np.testing.assert_array_equal(moved[here][weak], -np.sign(honest[weak]))


@pytest.mark.parametrize("kind", ["invert", "random", "constant", "colluding", "scale"])
def test_lies_in_floats(kind):
    stepper, sent = first_step("sgd", (kind, 3.0))
    _, truth = first_step("sgd")
    here = there(stepper.layout)
    truth, sent = truth[:, here], sent[:, here]
    np.testing.assert_array_equal(sent[LIARS:], truth[LIARS:])
    if kind == "random":
        assert sent[:LIARS].std() == pytest.approx(3.0, rel=0.1)
        return
    mean = truth[LIARS:].astype(float).mean(axis=0)
    wanted = {"invert": -3 * truth[:LIARS], "constant": 3.0, "colluding": -3 * mean, "scale": 3 * truth[:LIARS]}
    np.testing.assert_allclose(sent[:LIARS], np.broadcast_to(wanted[kind], (LIARS, here.sum())), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["invert", "scale"])
def test_lies_in_unbiased_random_coordinates(kind):
    """A lie is a multiple of what the honest message stands for, which the choice has scaled up already."""
    moved = {}
    for lies in (0, N):
        setup = Setup(Awkward(), N)
        stepper = setup.stepper(setup.algorithm("randk", feedback=False, density=0.25))
        stepper.exchange.adversary = Adversary(lies, kind, 3.0, stepper) if lies else None
        before = stepper.x.clone()
        stepper.step(0.01)
        moved[lies] = (stepper.x - before).numpy()
    assert moved[0].any()
    wanted = {"invert": -3, "scale": 3}[kind] * moved[0]
    np.testing.assert_allclose(moved[N], wanted, rtol=1e-3, atol=1e-5)


def test_lying_scales():
    """Signs stay honest; the scales that liars announce are ten times too large."""
    tables = {}
    for factor in (1.0, 10.0):
        setup = Setup(Awkward(), N)
        stepper = setup.stepper(setup.algorithm("dist-ef-signsgd"))
        stepper.exchange.adversary = Adversary(LIARS, "scale", factor, stepper)
        stepper.step(0.01)
        tables[factor] = stepper._header[:, -len(setup.layout.segments) :].copy()
    np.testing.assert_allclose(tables[10.0][:LIARS], 10 * tables[1.0][:LIARS], rtol=1e-6)
    np.testing.assert_array_equal(tables[10.0][LIARS:], tables[1.0][LIARS:])


@pytest.mark.parametrize("kind", ["random", "colluding"])
@pytest.mark.parametrize("name", ["signum-mv", "sgd"])
def test_chunks_do_not_matter(name, kind):
    ends = set()
    for chunk in (512, 1 << 20):
        setup = Setup(Quadratic(dimension=20_000), N)
        stepper = setup.stepper(setup.algorithm(name), chunk=chunk)
        stepper.exchange.adversary = Adversary(LIARS, kind, 1.0, stepper)
        for _ in range(3):
            stepper.step(0.01)
        ends.add(digest(stepper))
    assert len(ends) == 1


@pytest.mark.parametrize(("liars", "lower", "upper"), [(0, 0, 0.1), (13, 0, 0.5), (14, 1.0, np.inf)])
def test_a_majority_of_27_bears_13_inverters(liars, lower, upper):
    setup = Setup(Quadratic(dimension=500), 27)
    stepper = setup.stepper(setup.algorithm("signsgd-mv"))
    stepper.exchange.adversary = Adversary(liars, "invert", 1.0, stepper)
    before = setup.problem.measure({"x": stepper.x[:500]}, None)["loss"]
    for _ in range(800):
        stepper.step(0.01)
    after = setup.problem.measure({"x": stepper.x[:500]}, None)["loss"]
    assert lower <= after / before <= upper


@pytest.mark.parametrize(
    ("lies", "words"),
    [
        ({"voters": 5}, ("adversary.voters = 5", "4 voters")),
        ({"voters": 4, "kind": "colluding"}, ("colluding", "all 4 voters lie")),
        ({"voters": 1, "kind": "scale"}, ("factor = 1 changes nothing",)),
        ({"voters": 1, "kind": "scale", "factor": 2.0}, ("without scales", "dist-ef-signsgd", "sgd")),
        ({"voters": 1, "kind": "invert", "factor": 2.0}, ("without scales",)),
    ],
)
def test_lies_that_do_not_fit_are_refused(lies, words):
    settings = [f"adversary.{k}={v}" for k, v in lies.items()]
    with pytest.raises(UsageError) as error:
        resolve(config.load(None, tuple(settings)), 4)
    assert all(word in str(error.value) for word in words), error.value


def test_unknown_lies_name_the_known():
    refused(mpisign("train", "--set", "adversary.kind=bribe"), "adversary.kind", "bribe", "colluding", "invert")
