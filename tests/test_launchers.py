"""Who started this process, by its environment: what it tells of others is believed or refused, never trained past."""

import os

import pytest

from mpisign.errors import UsageError
from mpisign.parallel import launchers
from mpisign.parallel.launchers import PMI, Launch, Library, launch, refuse_alone, refuse_before
from tests.running import BIN, mpisign, run, train

MPICH, OPEN = Library("MPICH", (5, 0, 2), pmix=False), Library("Open MPI", (5, 0, 8), pmix=True)
NAMES = {name for _, *names in (*launchers.LAUNCHERS, *launchers.STRANGERS) for name in names if name}


@pytest.fixture
def environment(monkeypatch):
    """Sets variables in an environment without a launcher."""
    for name in [name for name in os.environ if name in NAMES or name.startswith("PMIX_")]:
        monkeypatch.delenv(name)
    return lambda **variables: [monkeypatch.setenv(name, value) for name, value in variables.items()]


@pytest.mark.parametrize(("by", "rank", "size"), [*launchers.LAUNCHERS, *launchers.STRANGERS])
def test_a_lone_process_of_several_is_refused(environment, by, rank, size):
    environment(**{rank: "1"} | ({size: "3"} if size else {}))
    assert (launch().rank, launch().size, launch().by) == (1, 3 if size else 2, by)
    for library in (MPICH, OPEN):
        with pytest.raises(UsageError, match=f"{rank}=1") as refused:  # noqa: PT012
            refuse_before(library)
            refuse_alone(library, 1)
        assert "unset" in str(refused.value)


@pytest.mark.parametrize(("by", "rank", "size"), [*launchers.LAUNCHERS, *launchers.STRANGERS])
def test_ranks_of_one_job_are_not(environment, by, rank, size):
    environment(**{rank: "1"} | ({size: "3"} if size else {}))
    refuse_before(OPEN)
    refuse_alone(OPEN, 3)


@pytest.mark.parametrize(
    "variables",
    [
        {"PMI_RANK": "", "PMI_SIZE": ""},
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": ""},
        {"PMI_RANK": "x", "PMI_SIZE": "2"},
        {"PMI_RANK": "3", "PMI_SIZE": "2"},
        {"PMI_RANK": "-1", "PMI_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "½"},
        {"WORLD_SIZE": "4"},
        {"PMIX_RANK": ""},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"},  # the shell of an allocation
    ],
)
def test_what_is_no_rank_of_a_size_tells_nothing(environment, variables):
    environment(**variables)
    assert launch() == Launch()
    refuse_before(MPICH)
    refuse_alone(MPICH, 1)


def test_mpirun_inside_a_step_that_another_launcher_started(environment):
    environment(PMIX_RANK="0", PMIX_NAMESPACE="slurm.pmix.1.0", SLURM_PROCID="0", SLURM_STEP_NUM_TASKS="4")
    with pytest.raises(UsageError, match="--mpi=pmi2"):
        refuse_before(MPICH)
    environment(PMI_RANK="1", PMI_SIZE="2")
    assert (launch().by, launch().size) == (PMI, 2)
    refuse_before(MPICH)
    assert "PMIX_NAMESPACE" not in os.environ, "MPICH aborts at the sight of both"
    refuse_alone(MPICH, 2)


def test_mpich_in_a_shell_that_open_mpi_started(environment):
    environment(OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="1")
    with pytest.raises(UsageError, match="another MPI"):
        refuse_before(MPICH)
    environment(PMI_RANK="1", PMI_SIZE="2")
    refuse_before(MPICH)
    assert launch("MPICH").size == launch("Intel MPI").size == 2
    assert launch("Open MPI").size == 1


def test_a_stranger_must_agree_with_mpi(environment):
    environment(RANK="0", WORLD_SIZE="8", PMI_RANK="0", PMI_SIZE="2")
    with pytest.raises(UsageError, match=r"8 processes.*there are 2"):
        refuse_before(MPICH)  # which could wait for ever, with four processes in one rank's place
    environment(WORLD_SIZE="2")
    refuse_before(MPICH)
    refuse_alone(MPICH, 2)


def test_a_place_on_the_node_that_is_no_number(monkeypatch):
    for name in launchers.LOCAL_RANKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MPI_LOCALRANKID", "")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    monkeypatch.setenv(launchers.VISIBLE, "4,5")
    launchers.take_gpu()
    assert os.environ[launchers.VISIBLE] == "5"


def test_torchrun_is_refused_by_the_program_and_the_library(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from torch import nn\nfrom mpisign.optim import SignOptimizer\nSignOptimizer(nn.Linear(8, 3), 'signum-mv')\n"
    )
    for rank, command in enumerate(([BIN / "mpisign", "train"], [BIN / "python", script])):
        started = {"RANK": str(rank), "WORLD_SIZE": "2"}
        ended = run(*command, environment=started, cwd=tmp_path)
        assert ended.code == 2
        assert "torchrun" in ended.err
        assert "mpirun -n 2" in ended.err
        assert not list(tmp_path.glob("**/*.h5"))


@pytest.mark.slow
def test_odd_variables_do_not_keep_a_run_from_training(tmp_path):
    odd = {"PMIX_RANK": "0", "PMIX_NAMESPACE": "slurm.pmix.1.0", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "",
           "RANK": "0", "WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "", "OMPI_COMM_WORLD_SIZE": ""}  # fmt: skip
    ended = train("run.steps=3", f"run.file={tmp_path}/r.h5", n=2, environment=odd)
    assert ended.code == 0, ended.err
    ended = mpisign("simulate", "-n", "3", "--set", "run.steps=3", environment={"RANK": "1", "WORLD_SIZE": "2"})
    assert ended.code == 2
    assert "simulate runs all voters in one process" in ended.err
