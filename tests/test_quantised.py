"""Quantised messages: what they are worth against theory, what memories reach, and what stops them."""

import numpy as np
import pytest
import torch

from mpisign.algorithms.compressors import Levels, TwoMeans
from mpisign.errors import NumericalError
from mpisign.run.adversary import Adversary
from mpisign.storage.reader import Run, load_parameters
from tests.building import Setup, digest
from tests.codes import DRAWS, Reader, alike, deviations, heavy, pooled
from tests.cover import rest_is_slow
from tests.problems import Awkward, Regression
from tests.running import mpisign, train
from tests.test_adversary import signs, there
from tests.test_commands import refused
from tests.test_probe import probed
from tests.test_simulate import here as simulate_here
from tests.test_simulate import simulate

ROWS = ["qsgd", "terngrad", "onebit-sgd", "diana", "ef21", "doublesqueeze"]

NATURAL = Levels(255, 4096, "max", "exponents")
UNBIASED = [
    Levels(7, 512, "l2"),
    Levels(3, 64, "max"),
    Levels(1, 64, "max"),
    Levels(4, 128, "l2", "powers"),
    Levels(8, 512, "max", "powers"),
    NATURAL,
]


@pytest.mark.parametrize("form", UNBIASED, ids=repr)
def test_the_mean_of_an_unbiased_code_is_v(form):
    square, largest = pooled(form)
    assert square < 1.15
    assert largest < 5.5


def test_a_bias_would_show():
    assert pooled(Levels(3, 64, "max"))[0] < 1.15 < 10 < deviations(Reader(NATURAL, heavy).many(), 0.0)[0]


def spiked(bucket, share):
    """One coordinate of a bucket is 1, all others are that share of it."""
    return lambda places: np.where(places % bucket, share, 1.0) * np.where(places % 3, 1, -1)


def within_the_first_level(b, s):
    """The share at which the variance of levels of the max norm is largest."""
    c = s**2 / (b - 1)
    return spiked(b, ((c + c**2) ** 0.5 - c) / s)


def halves(places):
    """1.5 or 0.5: with buckets of 64 and 7 levels of the l2 norm, next to the middle between two levels."""
    return np.where(places % 4, 0.5, 1.5)


WORST = [
    (Levels(1, 512, "l2"), alike),
    (Levels(7, 512, "l2"), alike),
    (Levels(7, 64, "l2"), halves),
    (Levels(1, 512, "max"), within_the_first_level(512, 1)),
    (Levels(3, 64, "max"), within_the_first_level(64, 3)),
    (Levels(7, 512, "max"), within_the_first_level(512, 7)),
    (Levels(1, 512, "l2", "powers"), alike),
    (Levels(12, 512, "max", "powers"), spiked(512, 2 / 3)),
    (NATURAL, lambda places: np.full(len(places), 4 / 3)),
]


@pytest.mark.parametrize(("form", "worst"), WORST, ids=[repr(form) for form, _ in WORST])
def test_the_variance_is_omega_at_its_worst(form, worst):
    """omega bounds it, and no less would do: but for the pads of a few buckets and the 1/8 beside the coin of powers"""
    error = Reader(form, worst).error()
    assert 0.93 * form.omega() < error < 1.005 * form.omega()
    assert Reader(form, heavy).error() < form.omega()


def test_omega_is_within_the_bound_of_the_paper():
    """Alistarh et al. 2017, lemma 3.1, for the l2 norm."""
    for s in (1, 3, 7, 15, 100, 255):
        for b in (64, 512, 4096):
            assert Levels(s, b, "l2").omega() <= min(b / s**2, b**0.5 / s)
            assert Levels(s, b, "max").omega() <= Levels(s, b, "l2").omega()


@pytest.mark.parametrize(("hyper", "omega"), [({}, (512**0.5 - 1) / 2), ({"bucket": 64, "norm": "l2"}, 7.0)])
def test_alpha_of_diana_is_that_of_its_own_buckets(hyper, omega):
    algorithm = Setup(Awkward(size=77), 3).algorithm("diana", **hyper)
    assert algorithm.sign.alpha == algorithm.vote.alpha == pytest.approx(1 / (1 + omega))


LR = 1e3  # so large that x is nothing beside a step


def directions(name, before=0, n=3, **hyper):
    """What was decided (DRAWS, d) at one x from full gradients, each by draws of its own after `before` steps there;
    and the gradients (n, d) of all voters.
    """
    setup = Setup(Awkward(size=77), n, batch_size=0)
    stepper, real, decided = setup.stepper(setup.algorithm(name, **hyper)), there(setup.layout), []
    for draw in range(DRAWS):
        for array in stepper.states().values():
            array.zero_()
        for k in range(before + 1):
            stepper.x.copy_(setup.x)
            stepper.t = draw * (before + 1) + k
            stepper.step(LR)
        decided.append((setup.x.double() - stepper.x).numpy()[real] / LR)
    gradients = np.array([state["g"].double().numpy()[real] for state in stepper.stage.estimator_states])
    return np.array(decided), gradients


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("qsgd", {"levels": 3, "bucket": 64, "down": "levels"}),
        pytest.param(
            "qsgd", {"levels": 4, "bucket": 64, "spacing": "powers", "down": "levels"}, marks=pytest.mark.slow
        ),
        pytest.param("qsgd", {"spacing": "exponents", "down": "levels"}, marks=pytest.mark.slow),
        ("terngrad", {"clip": 0.0}),
    ],
)
def test_the_mean_of_the_direction_is_the_mean_gradient(name, hyper):
    draws, gradients = directions(name, momentum=0.0, **hyper)
    square, largest = deviations(draws, gradients.mean(axis=0), least=150)
    assert square < 1.3
    assert largest < 5


@pytest.mark.parametrize("before", [0, 2])
def test_the_mean_of_the_direction_is_the_mean_gradient_whatever_memories_hold(before):
    draws, gradients = directions("diana", before, levels=3, bucket=64, alpha=0.5)
    square, largest = deviations(draws, gradients.mean(axis=0), least=150)
    assert square < 1.3
    assert largest < 5


def test_ternary_values_are_unbiased_for_clipped_gradients():
    """Each voter's clipped at its own deviations, though all share the largest that is left."""
    draws, gradients = directions("terngrad", clip=1.0, momentum=0.0)
    starts = np.cumsum([0, 70, 1, 77])
    limits = np.concatenate(
        [np.broadcast_to(np.sqrt((g**2).mean(axis=1))[:, None], g.shape) for g in np.split(gradients, starts[1:], 1)], 1
    )
    clipped = np.clip(gradients, -limits, limits)
    square, largest = deviations(draws, clipped.mean(axis=0), least=150)
    assert square < 1.3
    assert largest < 5
    assert deviations(draws, gradients.mean(axis=0), least=150)[0] > 10


def squares(v, bucket):
    """Of a v (d,): |v_b|_1^2/b summed over buckets."""
    return (np.abs(v).reshape(-1, bucket).sum(axis=1) ** 2).sum() / bucket


@pytest.mark.parametrize("bucket", [64, 512, 4096])
@pytest.mark.parametrize("v", [heavy, alike, lambda places: np.abs(heavy(places))], ids=["heavy", "alike", "one side"])
def test_two_means_contract(v, bucket):
    """They are a projection, which is no worse than the scaled signs of each bucket: delta >= |v|_1^2/(b |v|^2)."""
    reader = Reader(TwoMeans(bucket), v)
    told, truth = reader(0), reader.truth
    size = (truth**2).sum()
    error = ((told - truth) ** 2).sum() / size
    assert error == pytest.approx(1 - (told**2).sum() / size, abs=1e-5)
    assert error <= 1 - squares(reader.v.double().numpy(), bucket) / size + 1e-6
    if v is alike:
        assert error < 1e-12


def test_two_means_of_a_spike_are_at_their_worst():
    """One coordinate of a bucket: delta is 1/b, and no less for any v."""
    reader = Reader(TwoMeans(64), lambda places: (places == 4096).astype(float))
    assert ((reader(0) - reader.truth) ** 2).sum() == pytest.approx(1 - 1 / 64, rel=1e-6)


def test_scaled_signs_contract_as_theory_says():
    """|C(v) - v|^2 = (1 - |v|_1^2/(d|v|^2))|v|^2 in each tensor: Karimireddy et al. 2019, lemma 8."""
    setup = Setup(Awkward(size=77), 1)
    stepper = setup.stepper(setup.algorithm("ef21", code="signs", zeros="coin"))
    stepper.step(0.01)
    v, told = (stepper.stage.estimator_states[0]["g"], stepper.states()["sign/memory/0"])
    for s in setup.layout.segments:
        g, c = (array[s.offset : s.end].double().numpy() for array in (v, told))
        if s.name != "a":  # of which some coordinates are 0: a coin is no sign of theirs
            assert ((c - g) ** 2).sum() == pytest.approx(
                (g**2).sum() - np.abs(g).sum() ** 2 / s.size, rel=1e-5, abs=1e-9
            )


@pytest.mark.parametrize("lr", [2.0**-7, 2.0**-4])
@pytest.mark.parametrize("n", [1, 4])
def test_doublesqueeze_by_signs_is_dist_ef_signsgd(n, lr):
    """Bit for bit, at a rate that is a power of two: residuals of one are lr times those of the other."""
    setup = Setup(Awkward(), n)
    squeezed, blockwise = (setup.stepper(setup.algorithm(name)) for name in ("doublesqueeze", "dist-ef-signsgd"))
    for t in range(25):
        squeezed.step(lr)
        blockwise.step(lr)
        assert digest(squeezed) == digest(blockwise), t
    ours, theirs = (stepper.states()["sign/residual/0"] for stepper in (squeezed, blockwise))
    assert ours.any()
    assert torch.equal(lr * ours, theirs)


class Unlike(Regression):
    """Voters whose optima are far apart: rows sorted by the sign of b, with noise that no x explains."""

    def __init__(self):
        super().__init__(noise=1.0)


def gap(name, steps=1500, lr=0.1, n=4, **hyper):
    """f - f* over what it was, by full gradients at a constant rate, all voters having as many rows."""
    problem = Unlike()
    setup = Setup(problem, n, kind="sorted", batch_size=0)
    stepper = setup.stepper(setup.algorithm(name, **hyper))
    for _ in range(steps):
        stepper.step(lr)
    x = np.concatenate([p.numpy().ravel() for p in setup.layout.views(stepper.x).values()])
    return problem.gap(x.astype(float))


FORGETFUL = {
    "levels": ("qsgd", {"levels": 1, "bucket": 64, "norm": "max", "momentum": 0.0}),
    "largest": ("topk", {"density": 0.1, "momentum": 0.0}),
}
REMEMBERING = [
    ("diana", {"levels": 1, "bucket": 64}, "levels"),
    ("diana", {"levels": 3, "bucket": 64, "norm": "l2", "alpha": 0.25}, "levels"),
    ("ef21", {"density": 0.1}, "largest"),
    ("ef21", {"code": "two-means"}, "largest"),
    ("ef21", {"code": "signs"}, "largest"),
]


@pytest.mark.parametrize(("name", "hyper", "rival"), rest_is_slow(REMEMBERING, REMEMBERING[:1] + REMEMBERING[-1:]))
def test_memories_lead_unlike_voters_to_the_optimum(name, hyper, rival):
    """Where codes of the gradients themselves stay away from it, as their noise does not end."""
    forgetful, more = FORGETFUL[rival]
    reached = gap(name, **hyper)
    assert abs(reached) < 1e-10
    assert gap(forgetful, **more) > 1e4 * abs(reached)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["algorithm.name=qsgd", "algorithm.levels=0"], ["algorithm.levels = 0", "greater than or equal to 1"]),
        (["algorithm.name=qsgd", "algorithm.levels=300"], ["algorithm.levels = 300", "1 to 255 levels"]),
        (["algorithm.name=qsgd", "algorithm.bucket=100"], ["algorithm.bucket = 100", "64, 128", "4096"]),
        (["algorithm.name=onebit-sgd", "algorithm.bucket=8192"], ["algorithm.bucket = 8192", "64, 128", "4096"]),
        (
            ["algorithm.name=qsgd", "algorithm.spacing=powers", "algorithm.levels=101"],
            ["algorithm.levels = 101", "100", "linear"],
        ),
        (["algorithm.name=qsgd", "algorithm.norm=l1"], ["algorithm.norm = 'l1'", "'l2' or 'max'"]),
        (["algorithm.name=diana", "algorithm.alpha=1.5"], ["algorithm.alpha = 1.5", "less than or equal to 1"]),
        (["algorithm.name=ef21", "algorithm.code=levels"], ["algorithm.code = 'levels'", "contracts", "two-means"]),
        (["algorithm.name=doublesqueeze", "algorithm.up=floats"], ["algorithm.up = 'floats'", "'two-means'"]),
        (["algorithm.name=terngrad", "algorithm.clip=-1"], ["algorithm.clip = -1", "greater than or equal to 0"]),
        (
            ["algorithm.name=qsgd", "exchange.name=allreduce"],
            ["allreduce", "qsgd", "codes that do not add up", "sharded", "allgather"],
        ),
        (["algorithm.name=qsgd", "exchange.name=hierarchical"], ["hierarchical", "codes that do not add up"]),
        (["algorithm.name=diana", "algorithm.zeros=coin"], ["algorithm.zeros", "diana has no rule for zeros"]),
    ],
)
def test_bad_input_is_one_message_of_the_command(settings, words):
    refused(simulate(*settings, "run.steps=5", n=4), *words)


def test_bad_input_is_told_before_mpi_starts():
    # a launcher's promise that no MPI could keep
    promise = {"PMI_RANK": "0", "PMI_SIZE": "4", "PMI_FD": "99"}
    ended = train("algorithm.name=qsgd", "exchange.name=allreduce", environment=promise)
    refused(ended, "allreduce", "codes that do not add up")


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


OVERFLOWING = [
    ("qsgd", {}),
    ("qsgd", {"down": "levels"}),
    ("qsgd", {"spacing": "powers"}),
    ("onebit-sgd", {}),
    ("diana", {}),
    ("ef21", {"code": "two-means"}),
    ("doublesqueeze", {"up": "levels", "down": "two-means"}),
]


@pytest.mark.parametrize(("name", "hyper"), OVERFLOWING)
def test_what_overflows_on_the_way_stops_all(name, hyper):
    """Lies of 3e38, which are finite, but neither their sum nor their l2 norm."""
    setup = Setup(Awkward(size=77), 3)
    stepper = setup.stepper(setup.algorithm(name, **hyper))
    stepper.exchange.adversary = Adversary(2, "constant", 3e38, stepper)
    x = stepper.x.clone()
    with pytest.raises(NumericalError, match="what arrived for parameter"):
        stepper.step(0.1)
    assert torch.equal(stepper.x, x)


BEYOND = ("problem.name=quadratic", "problem.dimension=3000", "problem.condition=1e38")


@pytest.mark.parametrize("name", rest_is_slow(["qsgd", "doublesqueeze"], ["doublesqueeze"]))
def test_what_overflows_stops_all_ranks_by_mpirun_and_simulated(name, tmp_path):
    """Gradients are finite, and their l2 norms are not, or their sum."""
    codes = {"doublesqueeze": ("algorithm.up=levels", "algorithm.down=two-means")}.get(name, ())
    settings = (*BEYOND, f"algorithm.name={name}", *codes, "run.steps=5", "exchange.name=sharded")
    told = []
    for how, many in ((train, "ranks"), (simulate, "voters")):
        file = tmp_path / f"{many}.h5"
        ended = how(*settings, f"run.file={file}", n=3)
        refused(ended, "what arrived for parameter", code=3)
        run = Run(file)
        assert not run.complete
        told.append((run.status, run["eval"]["train_loss"].tolist()))
    assert told[0] == told[1]
    assert told[0][0].startswith("error at step 0")


def decoded(stepper):
    """What the messages of all voters (n, d) say, in the first step."""
    form, messages, layout = stepper.exchange.up, stepper.exchange._messages[0], stepper.layout
    if form.planes:
        return np.array([signs(messages[:, i].numpy()) for i in range(stepper.world.n)])[:, there(layout)]
    stepper.t = 0
    told = torch.zeros(stepper.world.n, layout.length)
    for voter, v in enumerate(told):
        form.add(messages[:, voter], v, 0, stepper.at_hand(layout))
    return told.numpy()[:, there(layout)]


def told_by_liars(name, kind, factor, **hyper):
    """Messages (5, d) of the first step, honest, and when two of the voters lie."""
    for lying in (False, True):
        setup = Setup(Awkward(), 5)
        stepper = setup.stepper(setup.algorithm(name, **hyper))
        if lying:
            stepper.exchange.adversary = Adversary(2, kind, factor, stepper)
        stepper.step(0.01)
        yield decoded(stepper)


EXACT = [("qsgd", {"spacing": "exponents"}), ("onebit-sgd", {}), ("ef21", {"code": "two-means"})]


@pytest.mark.parametrize("kind", ["invert", "random", "constant", "colluding", "scale"])
@pytest.mark.parametrize(("name", "hyper"), [*EXACT, ("qsgd", {}), ("diana", {"levels": 7})])
def test_lies_are_told_in_the_code(name, hyper, kind):
    """Each liar's message says what its code makes of the lie; nobody else's changes."""
    truth, lies = told_by_liars(name, kind, 4.0, **hyper)
    np.testing.assert_array_equal(lies[2:], truth[2:])
    wanted = {"invert": -4 * truth[:2], "scale": 4 * truth[:2], "constant": np.full_like(truth[:2], 4.0)}
    if kind == "random":
        assert not np.array_equal(lies[0], lies[1])
        assert abs(lies[:2].mean()) < 5 * lies[:2].std() / lies[:2].size ** 0.5
        assert lies[:2].std() > 3
    elif kind == "colluding":
        against = -truth[2:].mean(axis=0)
        assert (lies[:2] * against).sum() > 0.5 * np.abs(lies[:2] * against).sum()
    elif (name, hyper) in EXACT:
        np.testing.assert_allclose(lies[:2], wanted[kind], rtol=1e-6)
    else:
        assert (lies[:2] * wanted[kind] >= 0).all()
        assert lies[:2].sum() == pytest.approx(wanted[kind].sum(), rel=0.3)


@pytest.mark.parametrize("kind", ["invert", "constant"])
def test_lies_in_ternary_values(kind):
    truth, lies = told_by_liars("terngrad", kind, 1.0)
    np.testing.assert_array_equal(lies[2:], truth[2:])
    assert set(np.unique(truth)) == {-1, 0, 1}
    np.testing.assert_array_equal(lies[:2], -truth[:2] if kind == "invert" else np.ones_like(truth[:2]))


@pytest.mark.parametrize("name", ROWS)
def test_a_probe_sees_the_signs_of_what_was_sent(name):
    row, stepper, probe = probed(Awkward(), name)
    words, decision, own, _ = probe.kept
    real = there(stepper.layout)
    sent = np.array([signs(words[:, i].numpy()) for i in range(stepper.world.n)])[:, real]
    assert {-1, 1} <= set(np.unique(sent)) <= {-1, 0, 1}
    g = np.array([own.numpy() for own in own], dtype=float)[:, real].mean(axis=0)
    right = ((sent * g) > 0)[:, g != 0].mean(axis=1)
    np.testing.assert_allclose(row["voter_success"], right, atol=2e-3)
    assert row["success_vote"] == pytest.approx((decision.numpy()[real] * g > 0)[g != 0].mean(), abs=2e-3)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("qsgd", "colluding"),
        pytest.param("terngrad", "colluding", marks=pytest.mark.slow),
        pytest.param("doublesqueeze", "invert", marks=pytest.mark.slow),
        pytest.param("diana", "random", marks=pytest.mark.slow),
    ],
)
def test_liars_and_probes_are_the_same_simulated(name, kind, tmp_path):
    settings = (
        f"algorithm.name={name}", f"adversary.kind={kind}", "adversary.voters=1", "probe.every=5", "run.steps=12",
        "exchange.name=sharded",
    )  # fmt: skip
    ended = train(*settings, f"run.file={tmp_path}/ranks.h5", n=3)
    assert ended.code == 0, ended.err
    simulate_here(*settings, f"run.file={tmp_path}/voters.h5", n=3)
    for name, x in load_parameters(tmp_path / "ranks.model").items():
        np.testing.assert_array_equal(x, load_parameters(tmp_path / "voters.model")[name], err_msg=name)
    probes = [Run(tmp_path / f"{who}.h5")["probes"] for who in ("ranks", "voters")]
    assert len(probes[0]["step"]) == 3
    for name, column in probes[0].items():
        np.testing.assert_array_equal(column, probes[1][name], err_msg=name)


def test_a_dry_run_tells_what_levels_cost():
    for settings, bits in (((), 3 * (4 + 32 / 512)), (("algorithm.down=levels",), 3 * 2 * (4 + 32 / 512) / 4)):
        flags = ("algorithm.name=qsgd", "exchange.name=sharded" if settings else "exchange.name=allgather", *settings)
        ended = mpisign("simulate", "-n", 4, "--dry-run", *[p for s in flags for p in ("--set", s)])
        assert ended.code == 0, ended.err
        assert float(ended.values["bits_per_coordinate"].split()[0]) == pytest.approx(bits, rel=1e-2)
