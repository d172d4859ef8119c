"""Kills runs at random moments and checks what is left: `make endure`, which goes on where it was cut short.

For each algorithm: a run that nobody disturbs, then trials in which one rank, all ranks or the launcher get SIGKILL at
a random step. After each, no process may be left within 30 s, the run file must open, and the run, resumed, must end
with the same x and the same rows as the undisturbed one, bit for bit. Results go to FOLDER/results.jsonl.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from mpisign.errors import UsageError
from mpisign.storage.reader import Run
from tests.comparing import differing

ALGORITHMS = ("signum-mv", "dist-ef-signsgd", "ssvr-mv")
MODES = ("one rank", "all ranks", "mpirun")
STEPS, RANKS, PATIENCE = 4000, 3, 30
SETTINGS = (
    f"run.steps={STEPS}",
    "run.record_every=5",
    "checkpoint.every_steps=250",
    "run.keep=best",
    "exchange.name=sharded",
)
BIN = Path(sys.executable).parent
MARK = "MPISIGN_TRIAL"


def start(algorithm: str, file: Path, mark: str, *more: str) -> subprocess.Popen:
    """A run on RANKS ranks whose processes all carry a mark in their environment."""
    settings = (*SETTINGS, f"algorithm.name={algorithm}", f"run.file={file}")
    flags = [part for setting in settings for part in ("--set", setting)]
    command = [BIN / "mpirun", "-n", str(RANKS), BIN / "mpisign", "train", *flags, *more]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(command, env=os.environ | {MARK: mark, "OMP_NUM_THREADS": "1"}, **quiet)


def processes(mark: str) -> dict[int, str]:
    """Command line by process number, of all that carry a mark and are not dead already."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return {pid: line for pid, line in found.items() if line}


def ranks(mark: str) -> list[int]:
    return [pid for pid, line in processes(mark).items() if "mpisign train" in line and "mpirun" not in line]


def wait_for_step(file: Path, step: int, launcher: subprocess.Popen) -> None:
    """Until the run file tells of a step (it is written about once a second), or the run is over."""
    while launcher.poll() is None:
        try:
            if file.exists() and (steps := Run(file)["steps"]["step"]).size and steps[-1] >= step:
                return
        except UsageError:
            pass
        time.sleep(0.05)


def kill(mode: str, mark: str, launcher: subprocess.Popen, dice: random.Random) -> None:
    victims = {"one rank": dice.sample(sorted(ranks(mark)), 1) if ranks(mark) else [], "all ranks": ranks(mark)}
    for pid in victims.get(mode, [launcher.pid]):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def seconds_until_gone(mark: str) -> float:
    """How long processes stayed; infinite beyond PATIENCE."""
    begin = time.monotonic()
    while processes(mark):
        if time.monotonic() - begin > PATIENCE:
            return float("inf")
        time.sleep(0.1)
    return time.monotonic() - begin


def trial(algorithm: str, number: int, whole: Path, folder: Path) -> dict:
    """One kill and what came of it."""
    dice, mode = random.Random(f"{algorithm} {number}"), MODES[number % len(MODES)]
    file, mark = folder / f"{algorithm}-{number}.h5", f"{os.getpid()}-{algorithm}-{number}"
    for old in folder.glob(f"{file.stem}.*"):
        subprocess.run(["rm", "-rf", old], check=True)
    launcher = start(algorithm, file, mark)
    wait_for_step(file, dice.randrange(1, STEPS * 3 // 4), launcher)
    time.sleep(dice.random() / 2)
    kill(mode, mark, launcher, dice)
    gone = seconds_until_gone(mark)
    launcher.wait()
    opened, step = True, 0
    try:
        step = int(Run(file)["steps"]["step"][-1])
    except (UsageError, IndexError):
        opened = False
    again = start(algorithm, file, f"{mark}-again", "--resume", "auto").wait(timeout=300)
    result = {"algorithm": algorithm, "number": number, "mode": mode, "step": step, "gone": gone, "opened": opened}
    return result | {"resumed": again == 0, "same": again == 0 and Run(file).complete and not differing(whole, file)}


def table(results: list[dict]) -> str:
    """The results in markdown."""
    lines = [
        "| algorithm | one rank / all / mpirun killed | at steps | all gone within | file opened | x and rows same |",
        "|---|---|---|---|---|---|",
    ]
    for algorithm in dict.fromkeys(r["algorithm"] for r in results):
        own = [r for r in results if r["algorithm"] == algorithm]
        modes = " / ".join(str(sum(r["mode"] == mode for r in own)) for mode in MODES)
        steps, gone = [r["step"] for r in own], max(r["gone"] for r in own)
        counts = [f"{sum(r[key] for r in own)} of {len(own)}" for key in ("opened", "same")]
        cells = (f"`{algorithm}`", modes, f"{min(steps)} to {max(steps)}", f"{gone:.1f} s", *counts)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="for each algorithm")
    parser.add_argument("--folder", type=Path, default=Path("runs/endure"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    log = options.folder / "results.jsonl"
    results = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(r["algorithm"], r["number"]) for r in results}
    for algorithm in ALGORITHMS:
        whole = options.folder / f"{algorithm}-whole.h5"
        if not whole.exists() or not Run(whole).complete:
            assert start(algorithm, whole, "whole", "--resume", "auto").wait() == 0
        for number in range(options.kills):
            if (algorithm, number) not in done:
                results.append(trial(algorithm, number, whole, options.folder))
                print(results[-1], flush=True)
                with log.open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
    print(table(results))
    return 0 if all(r["opened"] and r["same"] and r["gone"] <= PATIENCE for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
