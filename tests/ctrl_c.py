"""Presses Ctrl-C in a terminal at random moments of a run and checks what is left: `python -m tests.ctrl_c`.

Each trial starts the same job in a terminal of its own and presses Ctrl-C at some moment of its start, its training, an
evaluation or its end; then it resumes what was saved. The job must end within 10 s of the key; where a step had been
taken there must be a checkpoint; the resumed run must have the rows and the x of one that nobody disturbed, bit for
bit.
"""

import argparse
import os
import pty
import random
import re
import select
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from mpisign.errors import UsageError
from mpisign.storage.reader import Run
from tests.comparing import differing
from tests.running import BIN, ROOT, run

LIMIT = 10.0  # seconds from the key to the end
# what is printed before each, and seconds from there: its beginning, its length. 30 steps take 1.5 s, an evaluation 1 s
MOMENTS = {
    "start": [("", 0.0, 5.0)],
    "training": [("step +0/60", 0.0, 1.5), ("step +30/60", 0.0, 1.5)],
    "evaluation": [("steps: 60", 0.0, 1.0), ("step +0/60", 1.5, 1.0)],
    "end": [("step +30/60", 1.5, 1.5)],
}
SETTINGS = (
    "run.steps=60",
    "run.eval_every=30",
    "run.record_every=5",
    "exchange.name=sharded",
    "algorithm.name=signum-mv",
)
PROBLEM = ("problem.name=tests.problems:Slow", "problem.seconds=0.05", "problem.evaluation=1.0")


@dataclass
class Pressed:
    """What came of a command in a terminal. seconds: from the last key to the end."""

    code: int
    output: str
    seconds: float


def flags(settings) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def command(n: int, *arguments) -> list[str]:
    launcher = [BIN / "mpirun", "-n", n] if n > 1 else []
    return [str(part) for part in (*launcher, BIN / "mpisign", *arguments)]


def in_terminal(arguments: list[str], ready, keys: int = 1, timeout: float = 240, pause: float = 1.0) -> Pressed:
    """Runs a command in a terminal of its own and presses Ctrl-C so many times once ready(output, seconds) says so."""
    begin = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execve(arguments[0], arguments, environment)
    output, pressed = b"", []
    try:
        while time.monotonic() - begin < timeout:
            now = time.monotonic()
            due = not pressed and ready(output.decode(errors="replace"), now - begin)
            if due or (pressed and len(pressed) < keys and now - pressed[-1] > pause):
                os.write(terminal, b"\x03")
                pressed.append(now)
            if select.select([terminal], [], [], 0.02)[0]:
                try:
                    output += os.read(terminal, 1 << 16)
                except OSError:  # the last process has closed its side
                    break
        else:
            raise AssertionError(f"no end after {timeout} s: {arguments}\n{output.decode(errors='replace')}")
    finally:
        os.close(terminal)  # hangs up on whoever is still there
    _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - pressed[-1] if pressed else 0.0
    return Pressed(os.waitstatus_to_exitcode(status), output.decode(errors="replace"), seconds)


def when(moment: str, dice: random.Random):
    """Whether to press now, by what was printed so far: a draw within the moment."""
    mark, first, length = dice.choice(MOMENTS[moment])
    after, begun = first + length * dice.random(), []

    def ready(output: str, seconds: float) -> bool:
        if not begun and re.search(mark, output):
            begun.append(seconds)
        return bool(begun) and seconds - begun[0] > after

    return ready


def trial(n: int, moment: str, number: int, whole: Path, folder: Path) -> dict[str, object]:
    """One Ctrl-C and what came of it."""
    file, dice = folder / f"{n}-{moment}-{number}.h5", random.Random(f"{n} {moment} {number}")
    settings = (*PROBLEM, *SETTINGS, f"run.file={file}")
    pressed = in_terminal(command(n, "train", *flags(settings)), when(moment, dice))
    step, saved = progress(file)
    again = run(*command(n, "train", "--resume", "auto", *flags(settings)), timeout=240)
    return {
        "n": n,
        "moment": moment,
        "number": number,
        "code": pressed.code,
        "seconds": round(pressed.seconds, 1),
        "step": step,
        "saved": saved,
        "told": "go on with mpisign resume" in pressed.output or step in (0, 60),
        "same": again.code == 0 and not differing(whole, file),
        "crashed": bool(re.search(r"Traceback|Segmentation|BAD TERM", pressed.output)),
    }


def undisturbed(n: int, folder: Path) -> Path:
    """The same job where nobody presses a key."""
    whole = folder / f"whole-{n}.h5"
    ended = run(*command(n, "train", *flags((*PROBLEM, *SETTINGS, f"run.file={whole}"))), timeout=240)
    assert ended.code == 0, ended.err
    return whole


def faults(found: dict[str, object]) -> list[str]:
    """What is not as it should be in a trial."""
    late = ["late"] if found["seconds"] > LIMIT else []
    return late + [name for name in ("saved", "told", "same") if not found[name]] + ["crashed"] * found["crashed"]


def progress(file: Path) -> tuple[int, bool]:
    """The last step that was taken, as far as the run file tells, and whether nothing of it is lost."""
    if not file.exists():
        return 0, True
    try:
        found = Run(file)
    except UsageError:
        return -1, False
    events = found["events"]
    step = int(events["step"][-1]) if len(events["step"]) else 0
    return step, found.complete or step == 0 or "checkpoint" in events["kind"].tolist()


def table(results: list[dict]) -> str:
    """The results in Markdown."""
    lines = [
        "| n | moment | ended in 10 s | slowest | codes | saved, or nothing to save | told how to go on | same bits |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for n, moment in dict.fromkeys((r["n"], r["moment"]) for r in results):
        own = [r for r in results if (r["n"], r["moment"]) == (n, moment)]
        count = lambda key, own=own: f"{sum(map(bool, (r[key] for r in own)))} of {len(own)}"  # noqa: E731
        quick, slowest = sum(r["seconds"] <= LIMIT for r in own), max(r["seconds"] for r in own)
        codes = ", ".join(map(str, sorted({r["code"] for r in own})))
        cells = (
            n,
            moment,
            f"{quick} of {len(own)}",
            f"{slowest} s",
            codes,
            count("saved"),
            count("told"),
            count("same"),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20, help="for each number of ranks, in turns over the moments")
    parser.add_argument("-n", type=int, nargs="+", default=[1, 3])
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for n in options.n:
            whole = undisturbed(n, folder)
            for number in range(options.trials):
                results.append(trial(n, list(MOMENTS)[number % len(MOMENTS)], number, whole, folder))
                print(results[-1], flush=True)
    print(table(results))
    good = [not faults(found) for found in results]
    print(f"{sum(good)} of {len(good)}")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
