"""One rank leaves, in many ways, and the others must not wait for it: `python -m tests.ways_out` prints a table.

mpirun -n 2 python -m tests.ways_out WAY     is the script of which rank 1 leaves
"""

import argparse
import os
import re
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from mpisign.parallel.watchdog import START
from tests.running import BIN, run

WATCHDOG = 8  # seconds
SOON = 5  # seconds in which most must end
SECONDS = 100  # that one that gets stuck stays


@dataclass(frozen=True)
class Way:
    """expected: what the output must say, as a regular expression, besides the rank. within: seconds."""

    expected: str
    within: float = SOON


# which a rank may take anywhere
ANYWHERE = {
    "exit": Way("bad input"),
    "systemexit": Way("SystemExit|has left"),
    "keyboard": Way("interrupted"),
    "generator": Way("GeneratorExit"),
    "raise": Way("ValueError: bad input"),
    "thread": Way("thread 'prefetch'.*ValueError: bad input"),
    "kill": Way(""),
    "sigstop": Way("does not answer", WATCHDOG + 2 * SOON),
    "stuck": Way("has not ended after", WATCHDOG + 2 * SOON),
}
IN_TRAIN = {f"{how} in {where}": ANYWHERE[how] for how, where in (
    *((how, "gradient") for how in ANYWHERE), ("exit", "read"), ("sigstop", "measure"),
)}  # fmt: skip
IN_TRAIN |= {
    "sigstop in read": Way("does not answer", START + 2 * SOON),
    "stuck in read": Way(r"rank 0 is in code of its own \(reading the data\) after step 0", START + 2 * SOON),
    "stuck in gradient": Way(r"rank 1 is in code of its own \(estimate\) after step \d", WATCHDOG + 2 * SOON),
}
IN_A_SCRIPT = ANYWHERE | {
    "in a closure": Way("interrupted"),
    "a batch less": Way(r"has left after step 4: its program ended.* rank 0 is in step\(\) at step 5"),
    "a step skipped": Way(r"has left after step 10.* rank 0 is in step\(\) at step 11"),
    # either of the two may be the first to find out
    "save alone": Way(r"is in save\(\).* is in step\(\)|is in step\(\).* is in save\(\)"),
    "save alone at the end": Way(r"has left after step 11.* is in save\(\)"),
    "exit before": Way("no data here"),
    "raise before": Way("ValueError: no data here"),
    "exit after rank": Way(r"has left after step 0: sys\.exit\('no data here'\).* is in SignOptimizer\(\)", 2 * SOON),
    "end before": Way("MPI has not started after", WATCHDOG + 2 * SOON),
}


def leave(how: str) -> None:
    """Leaves this rank, anywhere."""
    sys.stdout.write(f"leaves at {time.time()}\n")
    sys.stdout.flush()
    if how == "exit":
        sys.exit("bad input")
    errors = {"systemexit": SystemExit(4), "keyboard": KeyboardInterrupt(), "generator": GeneratorExit()}
    if how == "raise" or how in errors:
        raise errors.get(how, ValueError("bad input"))
    if how in ("kill", "sigstop"):
        os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)
    if how == "thread":
        threading.Thread(target=leave, args=("raise",), name="prefetch").start()
    if how in ("thread", "stuck"):
        time.sleep(SECONDS)


def script(way: str) -> None:
    """A training loop, of which rank 1 leaves."""
    here = os.environ["PMI_RANK"] == "1"
    import torch

    import mpisign
    from mpisign.optim import SignOptimizer

    if way.endswith(" after rank"):
        here = mpisign.rank() == 1
        if here:
            print(f"leaves at {time.time()}", flush=True)
            sys.exit("no data here")
    if here and way.endswith(" before"):
        print(f"leaves at {time.time()}", flush=True)
        if way == "raise before":
            raise ValueError("no data here")
        sys.exit("no data here" if way == "exit before" else None)
    model = torch.nn.Linear(8, 3)
    optimizer = SignOptimizer(model, "signum-mv", lr=1e-2, watchdog=WATCHDOG)

    def closure():
        if k == 5 and here and way == "in a closure":
            leave("keyboard")
        optimizer.zero_grad()
        loss = model(torch.randn(4, 8)).pow(2).mean()
        loss.backward()
        return loss

    for k in range(12):
        if k == 5 and here:
            if way in ANYWHERE:
                leave(way)
            if way == "a batch less":
                print(f"leaves at {time.time()}", flush=True)
                break
            if way == "save alone":
                print(f"leaves at {time.time()}", flush=True)
                optimizer.save("alone.ckpt")
            if way == "a step skipped":
                continue
        optimizer.step(closure)
    print(f"leaves at {time.time()}", flush=True)
    if here and way == "save alone at the end":
        optimizer.save("alone.ckpt")


@dataclass
class Left:
    """What came of one that left: seconds until the job had ended, and its output."""

    seconds: float
    code: int
    output: str


def job(command: list[object]) -> Left:
    ended = run(BIN / "mpirun", "-n", 2, *command, timeout=120)
    end, left = time.time(), re.findall(r"leaves at ([\d.]+)", ended.out)
    assert left, ended.err
    return Left(end - float(left[0]), ended.code, ended.err + ended.out)


def in_script(way: str) -> Left:
    return job([BIN / "python", "-m", "tests.ways_out", way])


def in_train(way: str, folder: Path) -> Left:
    how, _, where = way.partition(" in ")
    at = {"gradient": 5, "read": 1, "measure": 2}[where]
    settings = {
        "problem.name": "tests.problems:Leaving",
        "problem.how": how,
        "problem.during": where,
        "problem.at": at,
        "problem.on": 0 if where == "read" else 1,  # who reads for its node
        "run.steps": 40,
        "run.eval_every": 20,
        "run.watchdog": WATCHDOG,
        "run.file": folder / f"{way}.h5",
    }
    flags = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return job([BIN / "mpisign", "train", *flags])


def faults(way: Way, left: Left) -> list[str]:
    """What is not as it should be."""
    found = [] if left.seconds < way.within else [f"took {left.seconds:.1f} s"]
    found += [] if re.search(way.expected, left.output, re.DOTALL) else [f"does not say {way.expected!r}"]
    named = re.search(r"rank [01]/2", left.output) or not way.expected
    return found + ([] if named else ["names no rank"]) + ([] if left.code else ["code 0"])


def main(folder: Path, places: list[str], wanted: str) -> int:
    """Prints the table of the ways whose names a regular expression finds; 1 if any is not as it should be."""
    print("| where | way | seconds | code | as it should be | what it says |\n|---|---|---|---|---|---|")
    bad = 0
    for where, ways in (("train", IN_TRAIN), ("script", IN_A_SCRIPT)):
        for name, way in ways.items() if where in places else ():
            if not re.search(wanted, name):
                continue
            left = in_train(name, folder) if where == "train" else in_script(name)
            wrong = faults(way, left)
            bad += bool(wrong)
            said = next((line for line in left.output.splitlines() if line.startswith("mpisign:")), "")
            cells = (where, name, f"{left.seconds:.1f}", left.code, "; ".join(wrong) or "yes", said)
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", nargs="?", help="the script of which rank 1 leaves so")
    parser.add_argument("--places", nargs="+", default=["train", "script"])
    parser.add_argument("--only", default="", help="ways whose names this regular expression finds")
    options = parser.parse_args()
    if options.way:
        script(options.way)
    else:
        with tempfile.TemporaryDirectory() as name:
            sys.exit(main(Path(name), options.places, options.only))
