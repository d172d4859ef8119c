"""Batch scripts are golden files; the doctor finds what is wrong and says what to do."""

import os
import re
import subprocess

import pytest

from mpisign import cli
from mpisign.cli import batch, doctor
from mpisign.errors import UsageError
from tests.running import BIN, ROOT, mpisign, run
from tests.test_commands import refused


@pytest.mark.parametrize("kind", batch.KINDS)
def test_the_scripts_of_the_repository_are_what_sbatch_prints(kind):
    assert mpisign("sbatch", "--kind", kind).out == (ROOT / f"slurm/{kind}.sbatch").read_text()


def test_a_script_holds_job_and_resources(tmp_path):
    ended = mpisign("sbatch", "jobs/digits.toml", "--nodes", 4, "--tasks", 2, "--cpus", 3, "--gpus", 1, "--time",
                    "12:00", "--set", "run.seed=2", "--set", "run.file=a b.h5", "--sbatch=--account=mine")  # fmt: skip
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    asked = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    assert asked == {
        "--job-name=digits", "--nodes=4", "--ntasks-per-node=2", "--cpus-per-task=3", "--gpus-per-task=1",
        "--time=12:00", "--signal=B:USR1@120", "--requeue", "--open-mode=append", "--output=%x-%j.log",
        "--account=mine",
    }  # fmt: skip
    assert "jobs/digits.toml --set run.seed=2 --set 'run.file=a b.h5' \"$@\"" in ended.out
    script = tmp_path / "s.sbatch"
    script.write_text(ended.out)
    assert run("bash", "-n", script).code == 0


def test_a_sweep_becomes_an_array(tmp_path):
    job = tmp_path / "sweep.toml"
    job.write_text('[run]\nsteps = 3\n[sweep]\n"schedule.lr" = [0.1, 0.01]\n"run.seed" = [1, 2, 3]\n')
    ended = mpisign("sbatch", job, "--nodes", 1, "--tasks", 4)
    assert ended.code == 0, ended.err
    assert "#SBATCH --array=0-5\n" in ended.out
    assert '--point "$SLURM_ARRAY_TASK_ID"' in ended.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no.toml"], "no.toml"),
        (["jobs/digits.toml", "--set", "algorithm.name=nonsense"], "nonsense"),
        (["jobs/digits.toml", "--set", "run.voters=3"], r"run.voters = 3, but there are 16 rank\(s\)"),
        (["jobs/digits.toml", "--kind", "sweep"], r"no \[sweep\]"),
    ],
)
def test_a_job_that_would_fail_in_the_queue_fails_here(arguments, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UsageError, match=words):
        cli.cli(["sbatch", *arguments], standalone_mode=False)


SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; [[ $1 =~ ^[0-9]+$ ]] && shift; done
"$@"
"""


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (3, False), (75, True)])
def test_only_exit_code_75_is_requeued(code, requeued, tmp_path):
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/requeued\n')
    (tmp_path / "mpisign").write_text(f"#!/bin/bash\nexit {code}\n")
    for program in ("srun", "scontrol", "mpisign"):
        (tmp_path / program).chmod(0o755)
    slurm = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MPISIGN": str(tmp_path / "mpisign"), "SLURM_JOB_ID": "7"}
    assert run("bash", ROOT / "slurm/train.sbatch", environment=slurm).code == code
    found = tmp_path / "requeued"
    assert found.exists() == requeued
    assert not requeued or found.read_text() == "requeue 7\n"


def test_a_warning_reaches_the_ranks(tmp_path):
    script = "#!/bin/bash\ntrap 'echo warned; exit 75' USR1\necho on\nsleep 30 > /dev/null & wait\n"
    (tmp_path / "srun").write_text(script)
    (tmp_path / "scontrol").write_text('#!/bin/bash\necho "$@"\n')
    for program in ("srun", "scontrol"):
        (tmp_path / program).chmod(0o755)
    slurm = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": "."}
    with subprocess.Popen(["bash", ROOT / "slurm/train.sbatch"], env=slurm, stdout=subprocess.PIPE, text=True) as batch:
        assert batch.stdout.readline() == "on\n"
        batch.send_signal(10)
        told, _ = batch.communicate(timeout=20)
    assert (batch.returncode, told) == (75, "warned\nrequeue 7\n")


# Spares: a Slurm of four hosts, where a step of the ranks ends as `codes` tells and `dead` hosts answer no probe

SRUN_OF_HOSTS = """#!/bin/bash
while [[ $1 == -* ]]; do
    case $1 in
    --overlap) probe=1 ;;
    -N | -n) shift ;;
    -w) hosts=$2; shift ;;
    esac
    shift
done
if [ -n "${probe:-}" ]; then ! grep -qx "$hosts" dead; exit; fi
echo "$hosts/$MPISIGN_LOST" >> steps
read -r code die < codes
sed -i 1d codes
[ -z "$die" ] || echo "$die" >> dead
exit $code
"""
SCONTROL = """#!/bin/bash
if [ "$2" = hostnames ]; then printf 'h%s\\n' 1 2 3 4; else echo "$@" > requeued; fi
"""


def cluster(folder, codes):
    """A script of three nodes and a spare, its Slurm, and what the environment of the script holds."""
    printed = mpisign("sbatch", "--nodes", 3, "--spares", 1, "--tasks", 2)
    assert {"#SBATCH --nodes=4", "#SBATCH --no-kill"} <= set(printed.out.splitlines())
    for name, text in (("srun", SRUN_OF_HOSTS), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    for name, text in (("s.sbatch", printed.out), ("codes", f"{codes}\n"), ("dead", "")):
        (folder / name).write_text(text)
    told = {"JOB_ID": "7", "JOB_NODELIST": "h[1-4]", "JOB_NUM_NODES": "4", "NTASKS_PER_NODE": "2"}
    slurm = {f"SLURM_{name}": value for name, value in told.items()}
    return slurm | {"PATH": f"{folder}:{os.environ['PATH']}", "MPISIGN": "mpisign"}


@pytest.mark.parametrize(
    ("codes", "code", "steps", "requeued"),
    [
        ("0", 0, ["h1,h2,h3/"], False),
        ("137 h2\n0", 0, ["h1,h2,h3/", "h1,h3,h4/h2"], False),
        ("137 h4\n0", 0, ["h1,h2,h3/", "h1,h2,h3/h4"], False),  # a spare died, and a rank of another host
        ("137 h2\n137 h4\n0", 75, ["h1,h2,h3/", "h1,h3,h4/h2"], True),
        ("137", 137, ["h1,h2,h3/"], False),  # all hosts answer: the rank itself failed
        ("3 h2", 3, ["h1,h2,h3/"], False),
        ("75", 75, ["h1,h2,h3/"], True),
    ],
)
def test_spares(codes, code, steps, requeued, tmp_path):
    slurm = cluster(tmp_path, codes)
    ended = run("bash", "s.sbatch", environment=slurm, cwd=tmp_path)
    assert ended.code == code, ended.err
    assert (tmp_path / "steps").read_text().split() == steps
    assert (tmp_path / "requeued").exists() == requeued


def test_spares_of_the_script_in_the_repository(tmp_path):
    slurm = cluster(tmp_path, "137 h2\n0") | {"SPARES": "1"}
    ended = run("bash", ROOT / "slurm/train.sbatch", environment=slurm, cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert (tmp_path / "steps").read_text().split() == ["h1,h2,h3/", "h1,h3,h4/h2"]


def test_a_host_is_lost_when_the_time_is_nearly_over(tmp_path):
    slurm = cluster(tmp_path, "137 h2")
    (tmp_path / "srun").write_text(
        SRUN_OF_HOSTS.replace('echo "$hosts/', 'trap : USR1\nkill -USR1 $PPID\nsleep 0.2\necho "$hosts/')
    )
    ended = run("bash", "s.sbatch", environment=slurm, cwd=tmp_path)
    assert (ended.code, (tmp_path / "requeued").exists()) == (75, True), ended.err
    assert (tmp_path / "steps").read_text().split() == ["h1,h2,h3/"]


@pytest.mark.parametrize("kind", ["sweep", "scaling"])
def test_spares_are_for_one_run(kind):
    refused(mpisign("sbatch", "--kind", kind, "--spares", 1), "--spares 1: only --kind train")


# The doctor


def test_the_doctor_under_mpirun(tmp_path):
    ended = mpisign("doctor", tmp_path, n=2)
    assert ended.code == 0, ended.err
    for subject in ("mpi", "messages", "cores", "/dev/shm", "run files", "gpus", "kernels"):
        assert any(line.split(maxsplit=1)[1].startswith(subject) for line in ended.out.splitlines() if " " in line)
    assert "2 ranks started by" in ended.out
    assert ended.values["problems"] == "0"
    assert not list(tmp_path.iterdir())


def test_the_doctor_finds_a_folder_that_cant_be_written(tmp_path):
    (tmp_path / "file").touch()
    ended = mpisign("doctor", tmp_path / "file")
    assert (ended.code, ended.values["problems"]) == (1, "1")
    assert "-> name a folder" in ended.out


@pytest.mark.parametrize(
    ("cores", "everywhere", "state"),
    [([[0], [1]], 2, "ok"), ([[0, 1], [0, 1]], 2, "ok"), ([[0], [0]], 8, "problem"), ([[0], [0], [1]], 2, "note")],
)
def test_pinning(cores, everywhere, state):
    facts = [{"host": "h", "cores": c, "all": everywhere, "threads": None} for c in cores]
    assert [f.state for f in doctor._pinning(facts)] == [state]


def test_too_little_shared_memory_is_a_problem():
    facts = [{"host": "h", "shm": size, "left": {}, "removed": [], "parts": {}} for size in (64 << 20, 1 << 40)]
    assert doctor._memory(facts)[0].state == "problem"


def test_a_step_that_pmix_started_is_refused_before_mpi():
    vendor = run(BIN / "python", "-c", "import mpi4py; mpi4py.rc.initialize = False\nfrom mpi4py import MPI\n"
                 "print(MPI.get_vendor()[0], 'pmix' in MPI.Get_library_version().lower())")  # fmt: skip
    if vendor.out.split() != ["MPICH", "False"]:
        pytest.skip("not an MPICH without PMIx")
    step = {"PMIX_RANK": "0", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    refused(mpisign("doctor", environment=step), "--mpi=pmi2")


def test_the_options_of_sbatch_are_whole_words():
    words = [*batch.VALUED.split(), *batch.FLAGS.split()]
    assert not [word for word in words if not re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", word)]
