"""Batch scripts for Slurm, for `mpisign sbatch`; slurm/ holds the ones without a job."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

KINDS = ("train", "sweep", "scaling")


@dataclass(frozen=True)
class Request:
    """What is asked of Slurm, and what is run. points: of a sweep. directives: further lines, as "--account=x"."""

    kind: str = "train"
    nodes: int = 2
    tasks: int = 8  # a node
    cpus: int = 1  # a task
    time: str = "01:00:00"
    gpus: int = 0  # a task
    points: int = 4
    job: Path | None = None
    settings: tuple[str, ...] = ()
    directives: tuple[str, ...] = field(default=())


PURPOSE = {
    "train": "One training run; when its time is nearly over it is saved, queued again and goes on.",
    "sweep": "Every point of a sweep as a task of an array; a point that is cut short goes on when it is queued again.",
    "scaling": "One job on 1, 2, 4, ... nodes of one allocation, a run file each, for analysis/scaling.py.",
}

SCRIPT = Template("""\
#!/bin/bash
# $purpose
$usage
# Printed by `$command`, whose options fill in what differs from cluster to cluster.
$directives
set -uo pipefail

MPISIGN=$${MPISIGN:-$$SLURM_SUBMIT_DIR/.venv/bin/mpisign} # where it is installed
SRUN_MPI=$${SRUN_MPI:-pmi2}                              # how srun starts your MPI; `srun --mpi=list` tells them
DEVICE=$${DEVICE:-$device}                                  # of every rank: auto, cpu or cuda

$body
# exit code 75: the run was saved and wants to go on
if [ $$code = 75 ]; then scontrol requeue "$$SLURM_JOB_ID"; fi
exit $$code
""")

# what all kinds share: -K1 ends the job with its first dead rank, and bash hears signals only while it waits
LAUNCH = Template("""\
# -K1: one dead rank ends the job instead of leaving the others waiting
run() { srun -K1 --mpi="$$SRUN_MPI" "$$@" & step=$$!; code=0
        [ -z "$${warned:-}" ] || kill -USR1 $$step
        # the warning ends a wait, not the step, whose own code bash tells once it is gone
        while kill -0 $$step 2>/dev/null; do wait $$step || :; done
        wait $$step || code=$$?; }
trap 'warned=1; [ -z "$${step:-}" ] || kill -USR1 $$step' USR1 # Slurm's warning, handed on to the ranks

$loop""")

CALL = '"$MPISIGN" train --resume auto --set run.device="$DEVICE" {job}"$@"'

LOOP = {
    "train": "run {call}",
    "sweep": 'run {call} --point "$SLURM_ARRAY_TASK_ID"',
    "scaling": """\
for ((nodes = 1; nodes <= SLURM_JOB_NUM_NODES; nodes *= 2)); do
    run -N $nodes -n $((nodes * SLURM_NTASKS_PER_NODE)) {call}
    [ $code = 0 ] || break
done""",
}


def script(asked: Request) -> str:
    """The batch script that does what is asked."""
    words = [str(asked.job)] if asked.job else []
    words += [word for setting in asked.settings for word in ("--set", setting)]
    call = CALL.format(job=f"{shlex.join(words)} " if words else "")
    body = LAUNCH.substitute(loop=LOOP[asked.kind].format(call=call))
    return SCRIPT.substitute(
        purpose=PURPOSE[asked.kind],
        usage="" if asked.job else _usage(asked.kind),
        command=f"mpisign sbatch{'' if asked.job or asked.kind == 'train' else f' --kind {asked.kind}'}",
        directives="\n".join(f"#SBATCH {directive}" for directive in _directives(asked)),
        body=body,
        device="cuda" if asked.gpus else "auto",
    ).replace("\n\n# Printed", "\n# Printed")


def _usage(kind: str) -> str:
    if kind == "sweep":
        return (
            "#   sbatch --array=0-98 slurm/sweep.sbatch jobs/mnist_methods.toml --set problem.path=$HOME/mnist\n"
            "# `mpisign plan JOB` tells how many points there are, and `mpisign sbatch JOB` fills them in."
        )
    job = "strong_scaling" if kind == "scaling" else "mnist_mlp"
    return f"#   sbatch slurm/{kind}.sbatch jobs/{job}.toml --set problem.path=$HOME/mnist"


def _directives(asked: Request) -> list[str]:
    name = asked.job.stem if asked.job else "mpisign"
    lines = [f"--job-name={name}"]
    lines += [f"--array=0-{asked.points - 1}"] if asked.kind == "sweep" else []
    lines += [f"--nodes={asked.nodes}", f"--ntasks-per-node={asked.tasks}", f"--cpus-per-task={asked.cpus}"]
    lines += [f"--gpus-per-task={asked.gpus}"] if asked.gpus else []
    lines += [f"--time={asked.time}", "--signal=B:USR1@120", "--requeue", "--open-mode=append"]
    log = "%x-%A_%a.log" if asked.kind == "sweep" else "%x-%j.log"
    return [*lines, f"--output={log}", *asked.directives]
