"""Batch scripts for Slurm, for `mpisign sbatch`; slurm/ holds the ones without a job.

What bash reads is quoted by its rules. Lines of #SBATCH are read by Slurm, by rules of its own, and by bash where one
holds a line break: what can't be said there safely is refused.
"""

import difflib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from string import Template

from mpisign.errors import UsageError, printable

KINDS = ("train", "sweep", "scaling")

# [man sbatch, --time]; hours and minutes behind a larger unit are at most what it has
TIME = re.compile(
    r"\d{1,9}(:[0-5]?\d)?|\d{1,7}:[0-5]?\d:[0-5]?\d|\d{1,6}-([01]?\d|2[0-3])(:[0-5]?\d){0,2}|unlimited|infinite",
    re.IGNORECASE | re.ASCII,
)
OPTION = re.compile(r"--([a-z][a-z0-9-]*)(?:=(.*))?", re.DOTALL)
PLAIN = re.compile(r"[\w.:,@%+/=\[\]^~-]+", re.ASCII)  # of a value that needs no quotes
OWN = {"nodes": "--nodes", "ntasks-per-node": "--tasks", "cpus-per-task": "--cpus", "gpus-per-task": "--gpus",
       "time": "--time", "array": "a [sweep] in JOB"}  # fmt: skip
# the long options of sbatch 25.05 that say something about a job, without those for which there are own ones
VALUED = (
    "account acctg-freq batch bb bbf begin chdir cluster-constraint clusters comment constraint container "
    "container-id core-spec cores-per-socket cpu-freq cpus-per-gpu deadline delay-boot dependency error exclude "
    "exclusive export export-file extra extra-node-info get-user-env gpu-bind gpu-freq gpus gpus-per-node "
    "gpus-per-socket gres gres-flags hint input job-name kill-on-invalid-dep licenses mail-type mail-user mcs-label "
    "mem mem-bind mem-per-cpu mem-per-gpu network nice no-kill nodefile nodelist ntasks ntasks-per-core "
    "ntasks-per-gpu ntasks-per-socket oom-kill-step open-mode output partition power prefer priority profile propagate "
    "qos reservation segment signal sockets-per-node switches thread-spec threads-per-core time-min tmp tres-bind "
    "tres-per-task wait-all-nodes wckey"
)
FLAGS = (
    "contiguous exclusive get-user-env hold ignore-pbs nice no-kill no-requeue oom-kill-step overcommit "
    "oversubscribe propagate reboot requeue resv-ports spread-job stepmgr use-min-nodes"
)


@dataclass(frozen=True)
class Request:
    """What Slurm is to give and to run. points: of a sweep. directives: further lines, as "--account=x".

    spares: nodes beyond `nodes`, which take ranks when one of those no longer answers; of a train script only.
    """

    kind: str = "train"
    nodes: int = 2
    spares: int = 0
    tasks: int = 8  # per node
    cpus: int = 1  # per task
    time: str = "01:00:00"
    gpus: int = 0  # per task
    points: int = 4
    job: Path | None = None
    settings: tuple[str, ...] = ()
    directives: tuple[str, ...] = ()


PURPOSE = {
    "train": "One training run; when its time is nearly over it is saved, queued again and goes on.",
    "sweep": "Every point of a sweep as a task of an array; a point that is cut short goes on when it is queued again.",
    "scaling": "One job on 1, 2, 4, ... nodes of one allocation, a run file each, for mpisign report.",
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
    "train": "$start {call}",
    "sweep": 'run {call} --point "$SLURM_ARRAY_TASK_ID"',
    "scaling": """\
for ((nodes = 1; nodes <= SLURM_JOB_NUM_NODES; nodes *= 2)); do
    run -N $nodes -n $((nodes * SLURM_NTASKS_PER_NODE)) {call}
    [ $code = 0 ] || break
done""",
}


# what a training run has before its call: --no-kill leaves a job its other nodes, and the script finds out which
SPARES = Template(r"""
# With SPARES the first nodes take the ranks and as many others stand by; one that is lost leaves, and the run goes on.
SPARES=$${SPARES:-$spares} # of the nodes that the job asks for, with --no-kill
# what runs at once where a node is there: Slurm itself tells that one is lost only after its SlurmdTimeout
probe() { timeout -k 1 15 srun --overlap -N1 -n1 --ntasks-per-node=1 --mpi=none -w "$$1" true && echo "$$1"; }
answering() { for host in "$${hosts[@]}"; do probe "$$host" & done 2>/dev/null </dev/null; wait; }
# With --no-kill a job outlives this script's own node, and nothing would go on: another node queues the job again then.
watch() { exec srun --overlap -N1 -n1 --ntasks-per-node=1 --mpi=none -w "$$1" bash -c 'while sleep 20; do
              names=$$(squeue -h -j "$$SLURM_JOB_ID" -o %N) && [ -n "$$names" ] || continue
              scontrol show hostnames "$$names" | grep -qx "$$0" || scontrol requeue "$$SLURM_JOB_ID"
          done' "$$2"; }
trap '[ -z "$${watcher:-}" ] || kill $$watcher 2>/dev/null' EXIT
run_with_spares() {
    local nodes=$$((SLURM_JOB_NUM_NODES - SPARES)) hosts left lost answered host
    hosts=($$(scontrol show hostnames "$$SLURM_JOB_NODELIST"))
    while :; do
        [ -z "$${watcher:-}" ] || kill $$watcher 2>/dev/null
        watch "$${hosts[-1]}" "$${hosts[0]}" </dev/null >/dev/null 2>&1 & watcher=$$!
        run -N $$nodes -n $$((nodes * SLURM_NTASKS_PER_NODE)) -w "$$(IFS=,; echo "$${hosts[*]:0:nodes}")" "$$@"
        # the codes of mpisign's own: complete, usage and data, numerical, saved, interrupted; others may be a node's
        case $$code in 0 | 2 | 3 | 75 | 130) return ;; esac
        answered=" $$(answering | tr '\n' ' ')" left=() lost=()
        for host in "$${hosts[@]}"; do
            if [[ $$answered == *" $$host "* ]]; then left+=("$$host"); else lost+=("$$host"); fi
        done
        [ $${#lost[@]} -gt 0 ] || return # all are there: what failed would fail again
        echo "$$(date +%T) lost: $${lost[*]}; left: $${left[*]:-none}" >&2
        hosts=("$${left[@]}") MPISIGN_LOST+="$${MPISIGN_LOST:+ }$${lost[*]}" # which a run that goes on writes down
        if [ $${#left[@]} -lt $$nodes ]; then echo "no spare is left: queued again" >&2; code=75; return; fi
        if [ -n "$${warned:-}" ]; then echo "its time is nearly over: queued again" >&2; code=75; return; fi
    done
}
export MPISIGN_LOST=
start=run; [ "$$SPARES" = 0 ] || start=run_with_spares
""")


def script(request: Request) -> str:
    """The text of a batch script. Raises UsageError for what can't be said to Slurm, and spares of other kinds."""
    if request.spares and request.kind != "train":
        raise UsageError(f"--spares {request.spares}: only --kind train goes on with spare nodes; leave it out")
    words = [_job(request.job)] if request.job else []
    words += [word for setting in request.settings for word in ("--set", setting)]
    call = CALL.format(job=f"{shlex.join(words)} " if words else "")
    loop = LOOP[request.kind].format(call=call)
    if request.kind == "train":
        loop = SPARES.substitute(spares=request.spares).lstrip() + loop
    body = LAUNCH.substitute(loop=loop)
    return SCRIPT.substitute(
        purpose=PURPOSE[request.kind],
        usage="" if request.job else _usage(request.kind),
        command=f"mpisign sbatch{'' if request.job or request.kind == 'train' else f' --kind {request.kind}'}",
        directives="\n".join(f"#SBATCH {directive}" for directive in _directives(request)),
        body=body,
        device="cuda" if request.gpus else "auto",
    ).replace("\n\n# Printed", "\n# Printed")


def _usage(kind: str) -> str:
    if kind == "sweep":
        return (
            "#   sbatch --array=0-98 slurm/sweep.sbatch jobs/mnist_methods.toml --set problem.path=$HOME/mnist\n"
            "# `mpisign plan JOB` tells how many points there are, and `mpisign sbatch JOB` fills them in."
        )
    job = "strong_scaling" if kind == "scaling" else "mnist_mlp"
    return f"#   sbatch slurm/{kind}.sbatch jobs/{job}.toml --set problem.path=$HOME/mnist"


def _directives(request: Request) -> list[str]:
    lines = [f"--job-name={_name(request.job)}"]
    lines += [f"--array=0-{request.points - 1}"] if request.kind == "sweep" else []
    lines += [
        f"--nodes={request.nodes + request.spares}",
        f"--ntasks-per-node={request.tasks}",
        f"--cpus-per-task={request.cpus}",
    ]
    lines += [f"--gpus-per-task={request.gpus}"] if request.gpus else []
    lines += [f"--time={_time(request.time)}", "--signal=B:USR1@120", "--requeue", "--open-mode=append"]
    lines += ["--no-kill"] if request.spares else []
    log = "%x-%A_%a.log" if request.kind == "sweep" else "%x-%j.log"
    return [*lines, f"--output={log}", *map(_further, request.directives)]


def _job(job: Path) -> str:
    """A path as an argument: never an option, on one line."""
    text = str(job)
    if not text.isprintable():
        raise UsageError(f"the path {printable(text)!r} holds characters that can't be printed; rename the job file")
    return f"./{text}" if text.startswith("-") else text


def _name(job: Path | None) -> str:
    """A job's name that Slurm and file systems take as it is: the log is named by it."""
    return re.sub(r"[^\w.+-]+", "_", job.stem, flags=re.ASCII).lstrip("-") or "mpisign" if job else "mpisign"


def _time(text: str) -> str:
    if not TIME.fullmatch(text):
        raise UsageError(
            f"--time {printable(text)}: no limit that Slurm knows; write minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or "
            "D-HH:MM:SS"
        )
    return text


def _further(directive: str) -> str:
    """A line for Slurm, its value in quotes where it needs them."""
    shown, match = f"--sbatch={printable(directive)}", OPTION.fullmatch(directive)
    name, value = match.groups() if match else ("", None)
    valued, flags = VALUED.split(), FLAGS.split()
    if name in OWN:
        raise UsageError(f"{shown}: that is for {OWN[name]} to say")
    if name not in (*valued, *flags):
        near = difflib.get_close_matches(name, (*valued, *flags), 1)
        hint = f"did you mean --{near[0]}?" if near else "write --OPTION=VALUE, as in --sbatch=--account=mine"
        raise UsageError(f"{shown}: no long option of sbatch for a job; {hint}")
    if not value:
        if name in flags and value is None:
            return directive
        raise UsageError(f"{shown}: a value is missing, as in --{name}=VALUE")
    if name not in valued:
        raise UsageError(f"{shown}: --{name} takes no value")
    if PLAIN.fullmatch(value):
        return directive
    if not value.isprintable() or re.search(r"[\"\\]", value):
        raise UsageError(f"{shown}: line breaks, double quotes and backslashes can't be told to Slurm in a script")
    return f'--{name}="{value}"'
