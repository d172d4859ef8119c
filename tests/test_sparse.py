"""Sparse messages: what they are worth against theory, what they cost, and what stops them."""

import itertools

import numpy as np
import pytest
import torch

from mpisign import bits, config
from mpisign.algorithms.compressors import Chosen, Drawn, GlobalLargest, Largest, LargestSigns
from mpisign.bits.rng import Streams
from mpisign.errors import NumericalError, Stopped, UsageError
from mpisign.run.adversary import Adversary
from mpisign.run.plan import resolve
from mpisign.run.train import resume
from mpisign.storage.reader import Run
from tests.building import Setup, digest
from tests.codes import DRAWS, Reader, alike, heavy, pooled
from tests.cover import rest_is_slow
from tests.problems import Awkward
from tests.running import mpisign, train
from tests.test_adversary import there
from tests.test_commands import refused
from tests.test_probe import probed
from tests.test_simulate import here as simulate_here


@pytest.mark.parametrize("form", [Chosen(0.1, unbiased=True), Drawn(0.2), Drawn(0.2, passes=1)], ids=repr)
def test_the_mean_of_an_unbiased_code_is_v(form):
    square, largest = pooled(form)
    assert square < 1.15
    assert largest < 5


def test_a_bias_would_show():
    assert pooled(Chosen(0.1))[0] > 10


def test_random_places_have_the_variance_of_theory():
    form = Chosen(0.1, unbiased=True)
    assert form.omega() == pytest.approx(9, rel=0.01)
    for v in (heavy, alike):
        # whole tiles and equal shares: not a bound, but the variance itself
        assert Reader(form, v).error() == pytest.approx(form.omega(), rel=0.06 if v is heavy else 1e-3)


def test_drawn_entries_have_the_variance_of_their_probabilities():
    form, reader = Drawn(0.05), Reader(Drawn(0.05), heavy)
    c, v = form.factor(reader.v, reader.stepper.at_hand(reader.stepper.layout)), reader.truth
    p = np.minimum(1, c * np.abs(v))
    assert (p == 1).any()
    wanted = (v**2 * (1 / p - 1)).sum() / (v**2).sum()
    error = reader.error()
    assert error == pytest.approx(wanted, rel=0.02)
    # far better than places drawn alike, whose variance is the worst case
    assert error < 0.2 * Chosen(0.05, unbiased=True).omega()
    assert 0.8 * form.omega() < Reader(form, alike).error() <= form.omega()


@pytest.mark.parametrize("passes", [1, 2, 5])
def test_as_many_are_drawn_as_wanted(passes):
    """The greedy algorithm comes near the wanted number from below, and nearer at each pass."""
    reader = Reader(form := Drawn(0.05, passes), heavy)
    counts = (reader.many() != 0).sum(axis=1)
    wanted = 0.05 * len(reader.truth)
    assert counts.mean() < wanted + 4 * np.sqrt(wanted / DRAWS)
    assert counts.mean() > (0.97 if passes == 5 else 0.6) * wanted
    assert counts.max() < form.room(len(reader.v))


@pytest.mark.parametrize("form", [Largest(0.05), GlobalLargest(0.05), Chosen(0.05)], ids=repr)
def test_biased_codes_contract(form):
    k = 410 if isinstance(form, GlobalLargest) else 2 * 205
    worst = 1 - k / 8192 if not isinstance(form, GlobalLargest) else 1 - round(0.05 * 8071) / 8071
    assert Reader(form, alike).error() == pytest.approx(worst, rel=2e-3)
    error = Reader(form, heavy).error()
    assert error == pytest.approx(worst, rel=0.02) if isinstance(form, Chosen) else error < 0.6 * worst


def test_the_greatest_of_all_beat_those_of_each_tile():
    each = Reader(Largest(0.01), heavy)
    as_many = (each(0) != 0).sum() / len(each.truth)
    assert Reader(GlobalLargest(as_many), heavy).error() <= each.error()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["algorithm.name=topk", "algorithm.density=0"], ["algorithm.density = 0", "greater than 0"]),
        (["algorithm.name=dgc", "algorithm.density=1.5"], ["algorithm.density = 1.5", "less than or equal to 1"]),
        (["algorithm.name=topk", "algorithm.select=row"], ["algorithm.select = 'row'", "'tile' or 'all'"]),
        (["algorithm.name=strom", "algorithm.threshold=0"], ["algorithm.threshold = 0", "greater than 0"]),
        (["algorithm.name=dgc", "algorithm.warmup_steps=-1"], ["algorithm.warmup_steps", "greater than or equal to 0"]),
        (["algorithm.name=wangni", "algorithm.passes=0"], ["algorithm.passes = 0", "greater than or equal to 1"]),
        (
            ["algorithm.name=topk", "exchange.name=allreduce"],
            ["allreduce", "topk", "codes that do not add up", "sharded", "allgather"],
        ),
        (
            ["algorithm.name=wangni", "exchange.name=sharded"],
            ["sharded", "wangni", "entries whose number varies", "allgather, auto"],
        ),
        (["algorithm.name=s3gd-mv", "exchange.name=hierarchical"], ["hierarchical", "codes that do not add up"]),
        (["algorithm.name=randk", "exchange.name=dense"], ["dense", "codes that do not add up"]),
        (["algorithm.name=topk", "algorithm.zeros=coin"], ["algorithm.zeros", "topk has no rule for zeros"]),
        (["algorithm.name=topk", "algorithm.ties=coin"], ["algorithm.ties", "topk has no rule for ties"]),
        (
            ["algorithm.name=s3gd-mv", "adversary.voters=1", "adversary.factor=2"],
            ["s3gd-mv sends signs without scales"],
        ),
    ],
)
def test_bad_input_is_told_before_mpi_starts(settings, words):
    with pytest.raises(UsageError) as caught:
        resolve(config.load(None, tuple(settings)), 4)
    assert caught.value.exit_code == 2
    for word in words:
        assert word in str(caught.value), caught.value


def test_bad_input_is_one_message_of_the_command(tmp_path):
    ended = train("algorithm.name=wangni", "exchange.name=sharded", f"run.file={tmp_path}/r.h5", "run.steps=5", n=2)
    refused(ended, "entries whose number varies", "allgather")


ROWS = ["topk", "randk", "dgc", "strom", "wangni", "s3gd-mv"]


@pytest.mark.parametrize("name", ROWS)
def test_one_voter_sends_nothing(name):
    setup = Setup(Awkward(size=77), 1)
    stepper = setup.stepper(setup.algorithm(name))
    before = digest(stepper)
    stepper.step(0.1)
    assert digest(stepper) != before
    assert stepper.exchange.name == "local"
    assert not stepper.world.traffic.up + stepper.world.traffic.down


@pytest.mark.parametrize("name", ROWS)
def test_a_voter_with_nan_is_named(name):
    setup = Setup(Awkward(size=77), 3)
    stepper = setup.stepper(setup.algorithm(name))
    estimate = stepper._estimate

    def poisoned(i, step):
        v = estimate(i, step)
        if i == 1:
            v[20] = float("nan")
        return v

    stepper._estimate = poisoned
    x = stepper.x.clone()
    with pytest.raises(NumericalError, match=r"rank 1.*step 0"):
        stepper.step(0.1)
    assert torch.equal(stepper.x, x)


OVERFLOWING = [("topk", {}), ("topk", {"select": "all"}), ("randk", {}), ("dgc", {"select": "all"}), ("wangni", {})]


@pytest.mark.parametrize(("name", "hyper"), OVERFLOWING)
def test_what_overflows_on_the_way_stops_all(name, hyper):
    """Finite gradients, whose lies of 1e38 times them are none, or whose sum is none."""
    setup = Setup(Awkward(size=77), 3)
    stepper = setup.stepper(setup.algorithm(name, **hyper))
    stepper.exchange.adversary = Adversary(2, "constant", 3e38, stepper)
    x = stepper.x.clone()
    with pytest.raises(NumericalError, match="what arrived for parameter"):
        stepper.step(0.1)
    assert torch.equal(stepper.x, x)


@pytest.mark.parametrize("first", [4095, 1], ids=["beyond", "twice"])
def test_signs_of_a_place_that_can_not_be_are_no_votes(first):
    form, v = LargestSigns(0.25), torch.linspace(-1, 1, 640)
    message, planes = bits.new_planes(1, form.items(640)), bits.new_planes(2, 10)
    bits.pack_largest(v, form.k, True, 0, Streams(1).draw("zero", 0), message[0])
    form.to_planes(message, planes, None)
    message[0, 0] = (message[0, 0] & ~0xFFF) | first  # of the places, the first 12 bits; place 1 is the second
    with pytest.raises(NumericalError, match="160 signs names 159"):
        form.to_planes(message, planes, None)


def test_a_residual_that_overflows_stops_all_ranks(tmp_path):
    """The gradient is finite, lr times it is not: only who adds the messages up can tell."""
    settings = ("problem.name=quadratic", "problem.dimension=300", "algorithm.name=topk", "run.steps=5")
    file = tmp_path / "r.h5"
    ended = train(*settings, "schedule.lr=1e39", f"run.file={file}", n=3)
    refused(ended, "what arrived for parameter", "schedule.lr", code=3)
    run = Run(file)
    assert not run.complete
    assert run.status.startswith("error at step 0")


@pytest.mark.parametrize("kind", ["invert", "random", "constant", "colluding", "scale"])
@pytest.mark.parametrize(("name", "hyper"), [("topk", {}), ("wangni", {}), ("randk", {}), ("s3gd-mv", {})])
def test_lies_are_told_in_the_code(name, hyper, kind):
    """Each liar's message says what its code makes of the lie; nobody else's changes."""
    if name == "s3gd-mv" and kind == "scale":
        return
    factor = 1.0 if name == "s3gd-mv" else 3.0
    told = {}
    for lying in (False, True):
        setup = Setup(Awkward(), 5)
        stepper = setup.stepper(setup.algorithm(name, **hyper))
        if lying:
            stepper.exchange.adversary = Adversary(2, kind, factor, stepper)
        stepper.step(0.01, counting=True)
        stepper.t = 0
        step, told[lying] = stepper.at_hand(stepper.layout), torch.zeros(5, stepper.layout.length)
        for voter, v in enumerate(told[lying]):
            stepper.exchange.up.add(stepper.exchange._messages[0][:, voter], v, 0, step)
    truth, lies = told[False].numpy(), told[True].numpy()
    np.testing.assert_array_equal(lies[2:], truth[2:])
    if kind in ("invert", "scale") and name != "wangni":
        np.testing.assert_allclose(lies[:2], truth[:2] * (-factor if kind == "invert" else factor), rtol=1e-6)
    elif kind == "constant" and name != "wangni":
        assert set(np.unique(lies[:2])) <= {0, factor}
        assert (lies[:2] != 0).sum() >= (truth[:2] != 0).sum()
    else:
        assert not np.array_equal(lies[:2], truth[:2])
    if name == "s3gd-mv":
        real = there(stepper.layout)
        total = lies.sum(axis=0)[real]
        assert stepper.exchange.counts.agreement == np.abs(total).sum()
        assert stepper.exchange.counts.ties == (total == 0).sum()


@pytest.mark.parametrize("name", ["topk", "s3gd-mv", "wangni"])
def test_a_probe_sees_the_signs_of_what_was_sent(name):
    row, stepper, probe = probed(Awkward(), name)
    words, decision, own, _ = probe.kept
    real = there(stepper.layout)
    sent = words[1].numpy()
    assert 0 < sum(bin(w & (2**64 - 1)).count("1") for w in sent[0].tolist()) < 0.1 * real.sum()
    gradients = np.array([g.numpy() for g in own], dtype=float)[:, real]
    right = decision.numpy()[real] * gradients.mean(axis=0) > 0
    assert row["success_vote"] == pytest.approx(right[gradients.mean(axis=0) != 0].mean(), abs=2e-3)


WARM = ("algorithm.name=dgc", "algorithm.warmup_steps=12", "run.steps=24", "run.eval_every=12")


@pytest.mark.parametrize("at", rest_is_slow([5, 6, 7, 12], [6, 12]))
def test_a_warm_up_goes_on_across_its_borders(at, tmp_path):
    """Phases end at 3, 6, 9 and 12; a run that was cut beside a border has the rows and the x of one that was not."""
    whole, cut = tmp_path / "whole.h5", tmp_path / "cut.h5"
    simulate_here(*WARM, f"run.file={whole}", n=3)
    with pytest.raises(Stopped):
        simulate_here(*WARM, f"run.file={cut}", f"checkpoint.every_steps={at}", "run.max_minutes=1e-6", n=3)
    resume(cut, ("run.max_minutes=1000",))
    for table in ("steps", "eval"):
        for name, column in Run(whole)[table].items():
            if "seconds" not in name and "time" not in name:
                np.testing.assert_array_equal(Run(cut)[table][name], column, err_msg=name)


def test_a_warm_up_costs_the_arrays_of_one_phase():
    setup = Setup(Awkward(size=40_000), 2)
    plain, warm = (setup.stepper(setup.algorithm("dgc", warmup_steps=k)) for k in (0, 8))
    assert len(warm.stages) == 5
    assert warm.states().keys() == plain.states().keys()
    for _ in range(9):
        warm.step(0.01)
    assert warm.stages[0].channels[0].sign_rows is warm.stages[-1].channels[0].sign_rows


def test_a_dry_run_tells_every_phase_and_messages_that_vary():
    flags = [part for s in WARM for part in ("--set", s)]
    ended = mpisign("simulate", "-n", 4, "--dry-run", *flags, "--set", "algorithm.density=0.001")
    assert ended.code == 0, ended.err
    bits = [float(b) for b in ended.values["bits_per_coordinate"].split(" or ")]
    assert len(bits) == 5
    assert all(earlier > later for earlier, later in itertools.pairwise(bits))
    entries = mpisign("simulate", "-n", 4, "--dry-run", "--set", "algorithm.name=wangni", "--set", "run.steps=5")
    # 0.05 of the coordinates, 64 bits each, to 3 others
    assert float(entries.values["bits_per_coordinate"]) == pytest.approx(0.05 * 64 * 3, rel=2e-3)
    assert int(entries.values["bytes_per_step"]) == pytest.approx(0.05 * 9610 * 8 * 3, rel=0.02)
