"""Two checkouts of this program, each with its own .venv: the same jobs give the same rows and parameters, bit for bit.

python -m tests.same_program OLD NEW                 all forms of the table simulated with 1, 3 and 4 voters, and the
                                                     jobs below under mpirun; about ten minutes on two cores
python -m tests.same_program OLD NEW --simulated     without those under mpirun

Columns that only NEW has are named, not compared. The exit code is the number of runs that differ, 100 at most.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import tomli_w

from mpisign.algorithms import zoo
from mpisign.algorithms.registry import find
from mpisign.problems import OFFERS
from mpisign.problems.digits import Digits
from tests.comparing import differing, extra_columns
from tests.table import FORMS_BY_ROW, TABLE

assert zoo  # its functions enter the registry

VOTERS = (1, 3, 4)
SECONDS = 900  # for one command
LR = 0.01  # of simulated forms, by the scale of their row

RUN = {"steps": 12, "record_every": 1, "eval_every": 4, "check_every": 5, "trace": True, "keep": "last", "threads": 1}
SIMULATED = {"run": RUN | {"exact_gradient": True}, "problem": {"batch_size": 16}}

# under mpirun: every kind of message, decision and slot once, the built-in job, probes, adversaries, every exchange
LAUNCHED = (
    {"run.steps": 300},
    {"algorithm.name": "signum-mv", "exchange.name": "hierarchical", "exchange.node_size": 2},
    {"algorithm.name": "signsgd-mv", "exchange.name": "allgather", "algorithm.zeros": "abstain"},
    {"algorithm.name": "signsgd-mv", "exchange.name": "allreduce", "algorithm.ties": "zero"},
    {"algorithm.name": "ssvr-mv", "algorithm.option": 1},
    {"algorithm.name": "ssdm"},
    {"algorithm.name": "sto-signsgd"},
    {"algorithm.name": "dist-ef-signsgd"},
    {"algorithm.name": "dvr-q"},
    {"algorithm.name": "dist-signrvr"},
    {"algorithm.name": "onebit-adam", "algorithm.warmup_steps": 5},
    {"algorithm.name": "z-signfedavg"},
    {"algorithm.name": "sgd", "exchange.name": "dense"},
    {"algorithm.name": "signum-mv", "probe.every": 4, "adversary.voters": 1, "adversary.kind": "invert"},
)
RANKS = (3, 4)


def run(checkout: Path, *command: str, folder: Path) -> None:
    """Runs a program of a checkout's environment; raises with its output if it fails."""
    program = checkout.absolute() / ".venv" / "bin"
    command = tuple(str(program / c) if c in ("mpirun", "mpisign") else c for c in command)
    done = subprocess.run(command, cwd=folder, timeout=SECONDS, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def simulate(checkout: Path, folder: Path) -> None:
    """Runs all forms of the table in this process's simulation, one sweep for each number of voters."""
    for n in VOTERS:
        cases = [
            {"name": f"{k:02}-{name}", "algorithm.name": name, "schedule.lr": LR * TABLE[name].scale}
            | {f"algorithm.{key}": v for key, v in hyper.items()}
            for k, (name, hyper) in enumerate(FORMS_BY_ROW)
            if find(name).build(**hyper).needs <= Digits.offers | OFFERS
        ]
        sweep = {"sweep": {"folder": f"simulated-n{n}", "case": cases}}
        job = {t: dict(keys) for t, keys in SIMULATED.items()} | sweep
        job["run"]["voters"] = n
        file = folder / f"forms-n{n}.toml"
        file.write_bytes(tomli_w.dumps(job).encode())
        run(checkout, "mpisign", "simulate", file.name, folder=folder)


def launch(checkout: Path, folder: Path) -> None:
    """Runs the jobs above under mpirun."""
    for n in RANKS:
        for k, settings in enumerate(LAUNCHED):
            name = settings.get("algorithm.name", "")
            exchange = {} if {"exchange.name"} & settings.keys() else {"exchange.name": "sharded"}
            exchange = {} if name in ("sgd", "adam") else exchange
            own = {f"run.{key}": value for key, value in RUN.items()} | exchange | settings
            own |= {"run.file": f"launched-n{n}/{k:02}-{name or 'built-in'}.h5"}
            flags = [part for key, value in own.items() for part in ("--set", f"{key}={_text(value)}")]
            run(checkout, "mpirun", "-n", str(n), "mpisign", "train", *flags, folder=folder)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument(
        "--keep", type=Path, help="a folder for the runs; those of OLD that are there are not made again"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        top = options.keep or Path(temporary)
        for name, checkout in (("old", options.old), ("new", options.new)):
            if name == "old" and (top / "old.made").exists():
                continue
            (top / name).mkdir(parents=True, exist_ok=True)
            simulate(checkout, top / name)
            if not options.simulated:
                launch(checkout, top / name)
            (top / f"{name}.made").touch()
        files = sorted(
            p.relative_to(top / "old") for p in (top / "old").glob("simulated*/*.h5" if options.simulated else "*/*.h5")
        )
        bad = 0
        for file in files:
            found = differing(top / "old" / file, top / "new" / file)
            bad += bool(found)
            if found:
                print(f"{file}: {', '.join(found)}")
        new = extra_columns(top / "old" / files[0], top / "new" / files[0])
        print(f"{len(files)} runs, {bad} of them differ; columns of the new one alone: {', '.join(new) or 'none'}")
    sys.exit(min(bad, 100))
