"""Kills runs at random moments and checks what is left: `make endure`, which goes on where it was cut short.

For each algorithm: a run that nobody disturbs, then trials in which one rank, all ranks or the launcher get SIGKILL at
a random step. After each, no process may be left within 30 s, the run file must open, and the run, resumed, must end
with the same x and the same rows as the undisturbed one, bit for bit. Results go to FOLDER/results.jsonl.

With --memory checkpoints are in memory alone, every EVERY steps, on two simulated nodes; a whole node is lost now and
then, its memory with it. No more than EVERY steps may be lost then.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from mpisign.errors import UsageError
from mpisign.parallel import memory
from mpisign.storage.reader import Run
from tests.comparing import differing

ALGORITHMS = ("signum-mv", "dist-ef-signsgd", "ssvr-mv")
MODES = ("one rank", "all ranks", "mpirun", "a node")  # the last with --memory
STEPS, IN_MEMORY = 4000, 1000  # of a run; with --memory
RANKS, PATIENCE = 3, 30
SETTINGS = ("run.record_every=5", "run.keep=best", "exchange.name=sharded")
EVERY, SIZE = 20, 2  # steps between checkpoints in memory, and ranks of a node
BIN = Path(sys.executable).parent
MARK = "MPISIGN_TRIAL"


def start(algorithm: str, file: Path, mark: str, *more: str, in_memory: bool = False) -> subprocess.Popen:
    """A run on RANKS ranks whose processes all carry a mark in their environment."""
    settings = (*SETTINGS, f"algorithm.name={algorithm}", f"run.file={file}")
    if in_memory:
        settings += (f"run.steps={IN_MEMORY}", "checkpoint.every_minutes=0", f"checkpoint.memory_every={EVERY}")
    else:
        settings += (f"run.steps={STEPS}", "checkpoint.every_steps=250")
    flags = [part for setting in settings for part in ("--set", setting)]
    program = [sys.executable, "-m", "tests.on_nodes", str(SIZE), nodes_of(file)] if in_memory else [BIN / "mpisign"]
    command = [BIN / "mpirun", "-n", str(RANKS), *program, "train", *flags, *more]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(command, env=os.environ | {MARK: mark, "OMP_NUM_THREADS": "1"}, **quiet)


def nodes_of(file: Path) -> Path:
    """Where the memories of a run's simulated nodes are."""
    return Path(memory.SHARED) / f"endure-{os.getpid()}-{file.stem}"


def taken(file: Path) -> int:
    """The steps that a run on simulated nodes has taken."""
    return int(text) if (text := (nodes_of(file) / "taken").read_text()) else 0


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
    named = {pid: line for pid, line in processes(mark).items() if "mpirun" not in line}
    return [pid for pid, line in named.items() if "mpisign train" in line or "tests.on_nodes" in line]


def ranks_of_node(mark: str, node: int) -> list[int]:
    """The processes of a simulated node."""
    numbers = {f"PMI_RANK={rank}".encode() for rank in range(node * SIZE, (node + 1) * SIZE)}
    environments = {pid: Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in ranks(mark)}
    return [pid for pid, variables in environments.items() if numbers & {*variables}]


def wait_for_step(file: Path, step: int, launcher: subprocess.Popen) -> None:
    """Until the run file tells of a step (it is written about once a second), or the run is over."""
    while launcher.poll() is None:
        try:
            if file.exists() and (steps := Run(file)["steps"]["step"]).size and steps[-1] >= step:
                return
        except UsageError:
            pass
        time.sleep(0.05)


def kill(mode: str, mark: str, launcher: subprocess.Popen, dice: random.Random, nodes: Path | None = None) -> None:
    """Kills what the mode says, if it still runs. nodes: the memories of simulated ones."""
    victims = {"one rank": dice.sample(sorted(ranks(mark)), 1) if ranks(mark) else [], "all ranks": ranks(mark)}
    if nodes:
        lost = dice.randrange(-(-RANKS // SIZE))
        victims["a node"] = ranks_of_node(mark, lost)
    for pid in victims.get(mode, [launcher.pid]):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    if mode == "a node":
        launcher.wait()
        shutil.rmtree(nodes / f"node{lost}")


def seconds_until_gone(mark: str) -> float:
    """How long processes stayed; infinite beyond PATIENCE."""
    begin = time.monotonic()
    while processes(mark):
        if time.monotonic() - begin > PATIENCE:
            return float("inf")
        time.sleep(0.1)
    return time.monotonic() - begin


def trial(algorithm: str, number: int, whole: Path, folder: Path, in_memory: bool) -> dict:
    """One kill and what came of it."""
    modes = MODES if in_memory else MODES[:-1]
    dice, mode = random.Random(f"{algorithm} {number}"), modes[number % len(modes)]
    file, mark = folder / f"{algorithm}-{number}.h5", f"{os.getpid()}-{algorithm}-{number}"
    for old in (*folder.glob(f"{file.stem}.*"), nodes_of(file)):
        subprocess.run(["rm", "-rf", old], check=True)
    launcher = start(algorithm, file, mark, in_memory=in_memory)
    wait_for_step(file, dice.randrange(1, (IN_MEMORY if in_memory else STEPS) * 3 // 4), launcher)
    time.sleep(dice.random() / 2)
    kill(mode, mark, launcher, dice, nodes_of(file) if in_memory else None)
    gone = seconds_until_gone(mark)
    launcher.wait()
    opened, step = True, 0
    try:
        step = int(Run(file)["steps"]["step"][-1])
    except (UsageError, IndexError):
        opened = False
    result = {"algorithm": algorithm, "number": number, "mode": mode, "step": step, "gone": gone, "opened": opened}
    result["step"] = before = taken(file) if in_memory else step
    begin = time.monotonic()
    again = start(algorithm, file, f"{mark}-again", "--resume", "auto", in_memory=in_memory)
    while in_memory and again.poll() is None and taken(file) == before:
        time.sleep(1e-3)
    result["going"] = time.monotonic() - begin
    code = again.wait(timeout=300)
    if in_memory:
        result["lost"] = before - int(Run(file)["segments"]["step"][-1])
        shutil.rmtree(nodes_of(file))
    return result | {"resumed": code == 0, "same": code == 0 and Run(file).complete and not differing(whole, file)}


def table(results: list[dict], in_memory: bool) -> str:
    """The results in markdown."""
    killed = "one rank / all / mpirun / a node killed" if in_memory else "one rank / all / mpirun killed"
    more = ["steps lost", "again after"] if in_memory else []
    names = ["algorithm", killed, "at steps", "all gone within", *more, "file opened", "x and rows same"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for algorithm in dict.fromkeys(r["algorithm"] for r in results):
        own = [r for r in results if r["algorithm"] == algorithm]
        modes = " / ".join(str(sum(r["mode"] == mode for r in own)) for mode in (MODES if in_memory else MODES[:-1]))
        steps, gone = [r["step"] for r in own], max(r["gone"] for r in own)
        counts = [f"{sum(r[key] for r in own)} of {len(own)}" for key in ("opened", "same")]
        cells = [f"`{algorithm}`", modes, f"{min(steps)} to {max(steps)}", f"{gone:.1f} s"]
        if in_memory:
            lost, going = ([r[key] for r in own] for key in ("lost", "going"))
            cells += [f"{min(lost)} to {max(lost)}", f"{min(going):.1f} to {max(going):.1f} s"]
        lines.append(f"| {' | '.join([*cells, *counts])} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="for each algorithm")
    parser.add_argument("--folder", type=Path, default=Path("runs/endure"))
    parser.add_argument("--memory", action="store_true", help="checkpoints in memory, on simulated nodes")
    options = parser.parse_args()
    in_memory = options.memory
    options.folder.mkdir(parents=True, exist_ok=True)
    log = options.folder / ("memory.jsonl" if in_memory else "results.jsonl")
    results = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(r["algorithm"], r["number"]) for r in results}
    for algorithm in ALGORITHMS:
        whole = options.folder / f"{algorithm}-whole.h5"
        if not whole.exists() or not Run(whole).complete:
            assert start(algorithm, whole, "whole", "--resume", "auto", in_memory=in_memory).wait() == 0
            shutil.rmtree(nodes_of(whole), ignore_errors=True)
        for number in range(options.kills):
            if (algorithm, number) not in done:
                results.append(trial(algorithm, number, whole, options.folder, in_memory))
                print(results[-1], flush=True)
                with log.open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
    print(table(results, in_memory))
    few = all(r.get("lost", 0) <= EVERY for r in results)
    return 0 if few and all(r["opened"] and r["same"] and r["gone"] <= PATIENCE for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
