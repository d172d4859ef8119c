"""`simulate` is `mpirun train` in one process: the same bits, counters and records."""

import math

import numpy as np
import pytest

from mpisign import config
from mpisign.algorithms import theory
from mpisign.run.train import simulate as run_here
from mpisign.storage.reader import Run, load_parameters
from tests.running import mpisign, train
from tests.test_commands import refused


def here(*settings, n):
    """The same in this process, for tests that are not about the command line."""
    run_here(config.load(None, settings), n, quiet=True)


def simulate(*settings, n=None, job=None, **how):
    flags = [part for s in settings for part in ("--set", s)]
    return mpisign("simulate", *([job] if job else []), *(["-n", n] if n else []), *flags, **how)


@pytest.mark.parametrize(
    ("algorithm", "others"),
    [
        ("signum-mv", ()),
        pytest.param("onebit-adam", ("algorithm.warmup_steps=15",), marks=pytest.mark.slow),
        ("dgc", ("algorithm.warmup_steps=22", "algorithm.clip_norm=1")),
        ("wangni", ("exchange.name=allgather",)),
        pytest.param("terngrad", (), marks=pytest.mark.slow),
        pytest.param("diana", ("exchange.name=allgather",), marks=pytest.mark.slow),
        ("doublesqueeze", ("algorithm.up=levels", "algorithm.down=two-means")),
        pytest.param("dvr-q", ("algorithm.snapshot_every=9",), marks=pytest.mark.slow),
        # radii that all share, and a pass in order: the same words to an exchange, whose bits are tested in parallel/
        pytest.param("sto-signsgd", ("algorithm.refresh=7",), marks=pytest.mark.slow),
        pytest.param("dist-signrvm", (), marks=pytest.mark.slow),
    ],
)
def test_a_simulation_tells_what_mpirun_tells(algorithm, others, tmp_path):
    settings = ("run.steps=40", f"algorithm.name={algorithm}", "run.eval_every=10", *others)
    # what a run would measure is nothing that a simulation can know
    settings = (*(("exchange.name=sharded",) if algorithm != "onebit-adam" else ()), *settings)
    one, other = tmp_path / "mpirun.h5", tmp_path / "simulate.h5"
    assert train(*settings, f"run.file={one}", n=3).code == 0
    ended = simulate(*settings, f"run.file={other}", n=3)
    assert ended.code == 0, ended.err
    runs = Run(one), Run(other)
    for table in ("steps", "eval"):
        for column in set(runs[0][table]) - {"seconds"}:
            np.testing.assert_array_equal(runs[0][table][column], runs[1][table][column], err_msg=column)
    kept = [load_parameters(file.with_suffix(".model")) for file in (one, other)]
    assert all(np.array_equal(kept[0][name], kept[1][name]) for name in kept[0])
    assert runs[0].attributes["exchange"] == runs[1].attributes["exchange"]
    assert runs[1]["segments"]["mpi"].tolist() == ["none (simulated)"]


def test_a_thousand_voters_fit_in_one_process(tmp_path):
    file = tmp_path / "r.h5"
    here("problem.name=quadratic", "run.steps=20", "schedule.lr=0.1", f"run.file={file}", n=1000)
    run = Run(file)
    assert run.attributes["n"] == 1000
    assert run["steps"]["gradient_evaluations"][-1] == 20_000
    # a vote of so many hardly ever errs where |x| is of the order of the noise: every step goes down
    losses = run["eval"]["train_loss"]
    assert losses[-1] < 0.2 * losses[0]


def test_the_number_of_voters_must_be_said(tmp_path):
    refused(simulate("run.steps=5"), "simulate -n 27", "run.voters")
    promise = {"PMI_RANK": "0", "PMI_SIZE": "2", "PMI_FD": "99"}
    refused(simulate("run.steps=5", n=4, environment=promise), "one process", "use train")
    refused(train("run.steps=5", "run.voters=4", n=2), "run.voters = 4", "2 rank(s)", "simulate")


def test_dry_run_tells_costs_of_stages(tmp_path):
    hyper = ("algorithm.name=dvr-sign", "algorithm.snapshot_every=10", "run.steps=20", "problem.batch_size=8")
    ended = mpisign("simulate", "-n", 4, "--dry-run", *(p for s in hyper for p in ("--set", s)))
    assert ended.code == 0, ended.err
    words, raw = (9610 * b / 8 * 6 / 4 for b in (1, 16.5))
    exact, between = map(int, ended.values["bytes_per_step"].split(" or "))
    assert exact == pytest.approx(raw, rel=0.02)
    assert between == pytest.approx(words, rel=0.02)
    # two snapshots of all 1,438 rows, and two gradients of 4 x 8 rows at each of the 18 steps between
    assert float(ended.values["evaluations_per_step"]) == (2 * 1438 + 18 * 2 * 32) / 20


def test_a_budget_of_evaluations_ends_the_run(tmp_path):
    spent = {}
    for name in ("signum-mv", "ssvr-mv", "dist-signrvr"):
        file = tmp_path / f"{name}.h5"
        here("run.evaluations=20000", f"algorithm.name={name}", f"run.file={file}", n=4)
        spent[name] = Run(file)["steps"]["gradient_evaluations"][-1]
    assert all(17_000 < v <= 20_000 for v in spent.values()), spent
    refused(simulate("run.evaluations=5", n=4), "run.evaluations = 5", "allow more")


def test_the_uniform_iterate_is_a_point_of_the_run(tmp_path):
    settings = ("problem.name=quadratic", "run.steps=30", "run.eval_every=1", "run.trace=true", "run.keep=uniform")
    drawn = set()
    for seed in range(1, 5):
        file = tmp_path / f"{seed}.h5"
        here(*settings, f"run.seed={seed}", f"run.file={file}", n=3)
        trace, x = Run(file)["trace"], load_parameters(file.with_suffix(".model"))["x"]
        (row,) = np.flatnonzero((trace["x"] == x).all(axis=1))
        assert trace["step"][row] < 30
        drawn.add(int(trace["step"][row]))
    assert len(drawn) > 1


def test_preset_theory_fills_in_the_papers_formulas(tmp_path):
    file = tmp_path / "r.h5"
    stated = ("theory.smoothness=2.0", "theory.gradient_norm=3.0")
    settings = ("problem.name=quadratic", "problem.dimension=50", "run.steps=100", "algorithm.name=dvr-sign", *stated)
    flags = [part for s in (*settings, f"run.file={file}") for part in ("--set", s)]
    ended = mpisign("simulate", "-n", 5, "--preset", "theory", *flags)
    assert ended.code == 0, ended.err
    stored = Run(file).config
    u = 1 / (10 + (50 / 5) ** (1 / 3) * 100 ** (2 / 3))
    assert stored["algorithm"]["beta"] == pytest.approx(u)
    assert stored["schedule"]["lr"] == pytest.approx(3 * u / (2 * math.sqrt(50)))
    assert stored["algorithm"]["start_batches"] == math.ceil(1 / (u * u * 100))
    missing = mpisign("simulate", "-n", 5, "--preset", "theory", *flags[:8], "--set", f"run.file={tmp_path}/n.h5")
    refused(missing, "theory.gradient_norm", "dvr-sign")


def test_every_formula_gives_values_its_entry_takes():
    from mpisign.algorithms.registry import REGISTRY
    from mpisign.run.plan import resolve, with_theory

    stated = dict.fromkeys(theory.CONSTANTS, 2.0)
    assert set(stated) == set(config.Theory.model_fields)
    for entry in REGISTRY.values():
        for option in (1, 2) if entry.name == "ssvr-mv" else (1,):
            tables = {
                "run": {"steps": 1000, "preset": "theory"},
                "problem": {"name": "targets", "dimension": 100},
                "algorithm": {"name": entry.name} | ({"option": option} if option == 2 else {}),
                "theory": stated,
            }
            if entry.theory:
                plan = resolve(config.make(tables), 4)
                filled = with_theory(plan, 1000, 4, 100, 7)
                assert 0 < filled.config.schedule.lr < 1
                assert filled.algorithm != plan.algorithm or entry.name in ("signsgd", "signsgd-mv")
