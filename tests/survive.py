"""Kills ranks at random moments and tells how the others go on: python -m tests.survive, under Open MPI.

Each run of 4 ranks loses three of them, one after the other. Told for each: the rank, the last step recorded before
it, and the seconds from the kill to the event in the run file by which the others went on. All goes to FOLDER.
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

RANKS, STEPS, PATIENCE = 4, 700, 240
BIN = Path(sys.executable).parent
MARK = "MPISIGN_SURVIVOR"
SETTINGS = (f"run.steps={STEPS}", "run.record_every=1", "run.lost_ranks=vote on", "run.watchdog=60")
BETWEEN = (0.3, 3.0)  # seconds between two kills


def start(file: Path, mark: str) -> subprocess.Popen:
    """A run whose processes carry a mark in their environment."""
    flags = [part for setting in (*SETTINGS, f"run.file={file}") for part in ("--set", setting)]
    command = [BIN / "mpirun", "--with-ft", "ulfm", "-n", str(RANKS), BIN / "mpisign", "train", *flags]
    env = os.environ | {MARK: mark, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def ranks(mark: str) -> dict[int, int]:
    """Process numbers by rank of those that are alive."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            environment = dict(v.partition(b"=")[::2] for v in (folder / "environ").read_bytes().split(b"\0"))
            if environment.get(MARK.encode()) == mark.encode() and b"mpisign" in (folder / "cmdline").read_bytes():
                found[int(environment[b"OMPI_COMM_WORLD_RANK"])] = int(folder.name)
        except (OSError, KeyError, ValueError):
            continue
    return found


def step_of(file: Path) -> int:
    """The last step recorded so far."""
    try:
        return int(max(Run(file, salvage=True)["steps"]["step"], default=0))
    except (UsageError, OSError):
        return 0


def trial(file: Path, mark: str, dice: random.Random) -> list[dict]:
    """What became of each kill of one run."""
    launcher, kills = start(file, mark), []
    try:
        until = time.monotonic() + PATIENCE
        while not step_of(file) and launcher.poll() is None and time.monotonic() < until:
            time.sleep(0.2)
        for _ in range(RANKS - 1):
            time.sleep(dice.uniform(*BETWEEN))
            alive = ranks(mark)
            if launcher.poll() is not None or not alive:
                break
            rank, step = dice.choice(sorted(alive)), step_of(file)
            root = rank == min(alive)
            kills.append({"rank": rank, "root": root, "step": step, "at": time.time()})
            os.kill(alive[rank], signal.SIGKILL)
        _, errors = launcher.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(launcher.pid, signal.SIGKILL)
        for number in ranks(mark).values():
            os.kill(number, signal.SIGKILL)
        errors = "no end"
    return judged(file, kills, launcher.returncode, errors)


def judged(file: Path, kills: list[dict], code: int | None, errors: str) -> list[dict]:
    """The kills with what the run file tells of each."""
    run = Run(file, salvage=True)
    events = run["events"]
    told = [
        (t, text)
        for kind, t, text in zip(*(events[c] for c in ("kind", "time", "text")), strict=True)
        if kind == "lost"
    ]
    whole = run["steps"]["step"].tolist() == list(range(1, STEPS + 1))
    for kill in kills:
        row = next((t for t, text in told if str(kill["rank"]) in text.partition(" lost")[0][9:].split(", ")), None)
        kill["seconds"] = None if row is None else float(row) - kill["at"]
        kill |= {"complete": bool(run.complete), "rows": whole, "code": code}
        kill["errors"] = "" if run.complete else errors[-2000:]
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/survive"))
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    dice, all_kills = random.Random(options.seed), []
    for k in range(options.runs):
        kills = trial(options.folder / f"r{options.seed}-{k}.h5", f"{os.getpid()}-{k}", dice)
        all_kills += kills
        with (options.folder / "results.jsonl").open("a") as results:
            results.writelines(json.dumps(kill) + "\n" for kill in kills)
        for kill in kills:
            print({name: value for name, value in kill.items() if name != "at"}, flush=True)
    seconds = sorted(kill["seconds"] for kill in all_kills if kill["seconds"] is not None)
    survived = sum(kill["complete"] and kill["rows"] for kill in all_kills)
    print(f"{survived} of {len(all_kills)} kills survived; seconds to go on: {[round(s, 2) for s in seconds]}")


if __name__ == "__main__":
    main()
