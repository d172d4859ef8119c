"""The batch scripts under a real Slurm: warned, requeued, a host lost, arrays, several numbers of nodes."""

import time

import numpy as np
import pytest

from mpisign import config
from mpisign.run.train import simulate
from mpisign.storage.reader import Run, load_parameters
from tests.comparing import differing
from tests.running import ROOT, mpisign
from tests.slurm.conftest import until

pytestmark = pytest.mark.timeout(240)

SLOW = (
    "algorithm.name=dist-ef-signsgd",
    "schedule.lr=0.001",
    "problem.name=tests.problems:Slow",
    "run.steps=250",
    "run.eval_every=20",
)
RESOURCES = ("--cpus-per-task=1", "--time=5")


def sets(*settings):
    return [part for s in settings for part in ("--set", s)]


def options(nodes, tasks, log, *more):
    return (f"--nodes={nodes}", f"--ntasks-per-node={tasks}", *RESOURCES, f"--output={log}", *more)


def rows(file):
    return len(Run(file)["eval"]["step"]) if file.exists() else 0


def same_as_simulated(file, n, folder):
    """The run equals one of as many voters in this process."""
    whole = folder / f"simulated-{n}.h5"
    simulate(config.load(None, (*SLOW, "problem.seconds=0.0", f"run.file={whole}")), n, quiet=True)
    assert not differing(whole, file)


def test_warned_requeued_complete(slurm, tmp_path):
    file, log = tmp_path / "r.h5", tmp_path / "log"
    job = slurm.submit(ROOT / "slurm/train.sbatch", *sets(*SLOW, f"run.file={file}"), options=options(4, 2, log))
    until(lambda: rows(file) > 2, 180, lambda: log.read_text() if log.exists() else slurm.log())
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    ended = slurm.wait(job, seconds=120)
    text = log.read_text()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), text
    assert "stopped after step" in text
    assert "resumed from" in text
    run = Run(file)
    assert run["events"]["kind"].tolist() == ["start", "checkpoint", "stop", "resume", "complete"]
    assert run["segments"]["hosts"][-1] == "h1: 2, h2: 2, h3: 2, h4: 2"
    same_as_simulated(file, 8, tmp_path)


def test_a_host_is_powered_off(slurm, tmp_path):
    file, log = tmp_path / "r.h5", tmp_path / "log"
    settings = sets(*SLOW, f"run.file={file}", "checkpoint.every_steps=50")
    job = slurm.submit(ROOT / "slurm/train.sbatch", *settings, options=options(3, 2, log))
    until(lambda: file.with_suffix(".checkpoints").exists(), 180, lambda: log.read_text() if log.exists() else "")
    lost = Run(file)["segments"]["hosts"][0].split(", ")[1].split(":")[0]
    slurm.lab("kill", lost)
    ended = slurm.wait(job, seconds=150)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), log.read_text()
    hosts = Run(file)["segments"]["hosts"].tolist()
    assert len(hosts) == 2
    assert lost in hosts[0]
    assert lost not in hosts[1]
    same_as_simulated(file, 6, tmp_path)
    bring_back(slurm, lost)


def job_with_a_spare(slurm, file, script, *settings):
    """A job of 4 nodes and a spare, a rank each, once it has saved; its number and its log."""
    log = file.with_suffix(".log")
    resources = ("--nodes", 4, "--spares", 1, "--tasks", 1, "--time", 10, f"--sbatch=--output={log}")
    printed = mpisign("sbatch", *resources)
    assert printed.code == 0, printed.err
    script.write_text(printed.out)
    job = slurm.submit(script, *sets(*SLOW, f"run.file={file}", "checkpoint.every_steps=50", *settings))
    until(lambda: file.with_suffix(".checkpoints").exists(), 100, lambda: log.read_text() if log.exists() else "")
    return job, log


def lose(slurm, file, k):
    """Powers off the k-th host of the run's latest segment; its name, and a clock that starts then."""
    lost = Run(file)["segments"]["hosts"][-1].split(", ")[k].split(":")[0]
    slurm.lab("kill", lost)
    return lost, time.time()


def bring_back(slurm, *lost):
    for host in lost:
        slurm.lab("start", host)
    until(lambda: slurm.run("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "5", 60, slurm.log)


def test_a_spare_takes_over(slurm, tmp_path):
    file = tmp_path / "r.h5"
    job, log = job_with_a_spare(slurm, file, tmp_path / "s.sbatch")
    lost, when = lose(slurm, file, 1)
    ended = slurm.wait(job, seconds=150)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "0"), log.read_text()
    run = Run(file)
    events, hosts = run["events"], run["segments"]["hosts"].tolist()
    at = events["kind"].tolist().index("lost")
    assert events["kind"][at + 1] == "resume"
    assert events["text"][at] == f"no longer answered: {lost}"
    assert hosts == ["h1: 1, h2: 1, h3: 1, h4: 1", "h1: 1, h3: 1, h4: 1, h5: 1"]
    print(f"went on {events['time'][at + 1] - when:.1f} s after the power was off\n{log.read_text()}")
    same_as_simulated(file, 4, tmp_path)
    bring_back(slurm, lost)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_the_spares_are_used_up(slurm, tmp_path):
    file = tmp_path / "r.h5"
    job, log = job_with_a_spare(slurm, file, tmp_path / "s.sbatch", "problem.seconds=0.1")
    first, when = lose(slurm, file, 1)
    # once the second segment steps, so that the next host is lost in mid-run too
    until(lambda: Run(file)["events"]["kind"].tolist()[-2:] == ["resume", "checkpoint"], 120, log.read_text)
    events = Run(file)["events"]
    print(f"went on {events['time'][events['kind'].tolist().index('resume')] - when:.1f} s after the power was off")
    second, when = lose(slurm, file, 2)
    until(lambda: slurm.job(job)["Restarts"] == "1", 120, log.read_text)
    print(f"queued again {time.time() - when:.1f} s after the power was off")
    assert "no spare is left" in log.read_text()
    # it waits for the nodes to be repaired
    slurm.wait(job, "PENDING")
    slurm.run("scontrol", "hold", job)
    bring_back(slurm, first, second)
    slurm.run("scontrol", "release", job)
    ended = slurm.wait(job, seconds=200)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), log.read_text()
    run = Run(file)
    assert len(run["segments"]["hosts"]) == 3
    assert run["events"]["kind"].tolist().count("lost") == 1
    print(log.read_text())
    same_as_simulated(file, 4, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_the_host_of_the_script_is_lost(slurm, tmp_path):
    file = tmp_path / "r.h5"
    job, log = job_with_a_spare(slurm, file, tmp_path / "s.sbatch")
    lost, when = lose(slurm, file, 0)
    until(lambda: slurm.job(job)["Restarts"] == "1", 120, slurm.log)
    print(f"queued again {time.time() - when:.1f} s after the power was off")
    slurm.wait(job, "PENDING")
    slurm.run("scontrol", "hold", job)
    bring_back(slurm, lost)
    slurm.run("scontrol", "release", job)
    ended = slurm.wait(job, seconds=200)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), log.read_text()
    same_as_simulated(file, 4, tmp_path)


def test_an_array_with_a_point_that_fails(slurm, tmp_path):
    job, script = tmp_path / "sweep.toml", tmp_path / "sweep.sbatch"
    job.write_text(
        '[run]\nsteps = 30\n[problem]\nname = "quadratic"\n[algorithm]\nname = "sgd"\n[sweep]\n'
        f'folder = "{tmp_path}/points"\n"schedule.lr" = [0.1, 1e6, 0.01]\n'
    )
    printed = mpisign("sbatch", job, "--nodes", 1, "--tasks", 2, f"--sbatch=--output={tmp_path}/%a.log")
    assert printed.code == 0, printed.err
    script.write_text(printed.out)
    number = slurm.submit(script)
    states = [slurm.wait(f"{number}_{k}") for k in range(3)]
    assert [s["JobState"] for s in states] == ["COMPLETED", "FAILED", "COMPLETED"], states
    assert states[1]["ExitCode"] == "3:0"
    listed = mpisign("plan", job).out
    assert [line.split()[1] for line in listed.splitlines()[:3]] == ["complete", "error", "complete"]


def test_one_two_and_four_nodes(slurm, tmp_path):
    log = tmp_path / "log"
    settings = sets("problem.name=quadratic", "run.steps=50", "algorithm.name=ssvr-mv")
    slurm_options = options(4, 1, log, f"--chdir={tmp_path}")
    job = slurm.submit(ROOT / "slurm/scaling.sbatch", *settings, options=slurm_options)
    # three runs, one after another
    assert slurm.wait(job, seconds=180)["JobState"] == "COMPLETED", log.read_text()
    for n in (1, 2, 4):
        file, whole = (tmp_path / where / f"quadratic-ssvr-mv-n{n}-seed1.h5" for where in ("runs", "here"))
        assert Run(file).attributes["n"] == n
        simulate(config.load(None, [*settings[1::2], f"run.file={whole}"]), n, quiet=True)
        x, y = (load_parameters(f.with_suffix(".model"))["x"] for f in (file, whole))
        assert np.array_equal(x, y)
    # a step of a launcher that MPI does not know is n processes that each believe to be alone
    told = slurm.run("bash", "-c", "srun -N2 -n2 --mpi=none mpisign train 2>&1 || true", cwd=tmp_path)
    assert told.count("another MPI") == 1
