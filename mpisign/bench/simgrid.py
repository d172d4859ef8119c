"""SimGrid: a schedule written as a trace and a platform, and the seconds that its program smpirun takes for them.

smpirun replays what each rank posts and waits for, with all flows sharing the links max-min fairly. Its defaults are
an old cluster's (latency x 11.6, its own costs of calls); here all are set. It is called as a program: mpisign neither
imports nor needs it. GOAL is the same trace for LogGOPSim and ATLAHS.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpisign.bench.topology import Topology
from mpisign.errors import MpisignError, UsageError
from mpisign.exchange.schedule import Phase
from mpisign.storage.writer import aside_of

PROGRAM, PACKAGE = "smpirun", "libsimgrid-dev"
GOODPUT = 0.95  # of a link's rate, that messages get of it beside headers: what TCP got of shaped links
SLOWER = 1e3  # the simulated network, since smpirun tells whole microseconds
LIMIT = 1 << 30  # bytes of a message, which SimGrid counts in 32 bits; a longer one goes in pieces
SETTINGS = (
    "smpi/lat-factor:0:1",
    f"smpi/bw-factor:0:{GOODPUT}",
    "smpi/os:0:0:0",
    "smpi/or:0:0:0",
    "smpi/ois:0:0:0",
    "network/crosstraffic:0",
    "network/TCP-gamma:1e15",
    "smpi/simulate-computation:no",
    # a rank's thread in KiB: 8 MiB of each of 10,000 are more than many a machine grants
    "contexts/stack-size:512",
    "contexts/guard-size:0",
)
TIME = re.compile(r"Simulation time ([\d.e+-]+)")

Part = tuple[Phase, Sequence[int]]  # some rounds of a phase


@dataclass(frozen=True)
class Traffic:
    """What is simulated at once: rounds of phases among n ranks, node_size to a node, on a network.

    bandwidth, latency: of each link. joined: whether messages of one rank to another that travel together are one.
    """

    parts: tuple[Part, ...]
    n: int
    node_size: int
    topology: Topology
    bandwidth: float
    latency: float
    joined: bool = False


def batches(part: Part) -> Iterator[Sequence[int]]:
    """The rounds that are posted together, before all of them are waited for."""
    phase, rounds = part
    return (rounds[k : k + phase.batch] for k in range(0, len(rounds), phase.batch))


def received(phase: Phase, rank: int, rounds: Iterable[int], joined: bool) -> Iterator[tuple[int, int]]:
    """(from whom, bytes) of each message that comes to a rank."""
    for k in rounds:
        if (source := phase.source(rank, k)) is not None:
            yield from ((source, size) for size in _pieces(phase.sizes(source, k), joined))


def sent(phase: Phase, rank: int, rounds: Iterable[int], joined: bool) -> Iterator[tuple[int, int]]:
    """(to whom, bytes) of each message that a rank sends."""
    for k in rounds:
        if (to := phase.to(rank, k)) is not None:
            yield from ((to, size) for size in _pieces(phase.sizes(rank, k), joined))


def _pieces(sizes: Iterable[int], joined: bool) -> Iterator[int]:
    for size in [sum(sizes)] if joined else sizes:
        whole, rest = divmod(int(size), LIMIT)
        yield from [LIMIT] * whole + [rest] * (rest > 0)


def trace(traffic: Traffic) -> Iterator[str]:
    """The lines of SimGrid's trace, rank after rank; a phase's number is the tag of its messages."""
    for rank in range(traffic.n):
        yield f"{rank} init\n"
        for tag, part in enumerate(traffic.parts):
            for rounds in batches(part):
                yield from _posted(traffic, part[0], tag, rank, rounds)
        yield f"{rank} finalize\n"


def _posted(traffic: Traffic, phase: Phase, tag: int, rank: int, rounds: Sequence[int]) -> Iterator[str]:
    lines = [f"{rank} irecv {other} {tag} {size}\n" for other, size in received(phase, rank, rounds, traffic.joined)]
    lines += [f"{rank} isend {other} {tag} {size}\n" for other, size in sent(phase, rank, rounds, traffic.joined)]
    yield from [*lines, f"{rank} waitall\n"] if lines else ()


def goal(traffic: Traffic) -> Iterator[str]:
    """The same as GOAL text [Hoefler, Siebert, Lumsdaine 2009], of which LogGOPSim and ATLAHS make their schedules."""
    yield f"num_ranks {traffic.n}\n"
    for rank in range(traffic.n):
        yield f"rank {rank} {{\nl0: calc 0\n"
        last = 0
        for tag, part in enumerate(traffic.parts):
            for rounds in batches(part):
                arguments = (part[0], rank, rounds, traffic.joined)
                posts = [f"recv {size}b from {other} tag {tag}" for other, size in received(*arguments)]
                posts += [f"send {size}b to {other} tag {tag}" for other, size in sent(*arguments)]
                yield from (f"l{k}: {post}\nl{k} requires l{last}\n" for k, post in enumerate(posts, last + 1))
                if posts:
                    waiting, end = range(last + 1, last + 1 + len(posts)), last + 1 + len(posts)
                    yield f"l{end}: calc 0\n" + "".join(f"l{end} requires l{k}\n" for k in waiting)
                    last = end
        yield "}\n"


def write(traffic: Traffic, folder: Path, with_goal: bool = False) -> list[str]:
    """Writes trace, platform and hosts into a folder; returns the command that simulates them there.

    Raises UsageError where the folder can't be written.
    """
    hosts = (f"node-{rank // traffic.node_size}\n" for rank in range(traffic.n))
    platform = traffic.topology.platform(traffic.bandwidth, traffic.latency, SLOWER)
    texts: dict[str, Iterable[str]] = {
        "platform.xml": [platform],
        "hosts": hosts,
        "trace.txt": trace(traffic),
        "trace.idx": ["trace.txt\n"],
    }
    for name, lines in (texts | ({"trace.goal": goal(traffic)} if with_goal else {})).items():
        _write(folder / name, lines)
    options = ("-np", str(traffic.n), "-platform", "platform.xml", "-hostfile", "hosts", "-replay", "trace.idx")
    return [PROGRAM, *options, "--log=smpi_replay.t:info", *(f"--cfg={setting}" for setting in SETTINGS)]


def _write(path: Path, lines: Iterable[str]) -> None:
    aside = aside_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("w") as file:
            file.writelines(lines)
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise UsageError(f"{path}: can't be written ({error.strerror}); name another folder by --trace") from error


def installed() -> bool:
    """Whether there is something to simulate with."""
    return shutil.which(PROGRAM) is not None


def demand_program(kept: Path | None = None) -> None:
    """Raises UsageError where smpirun is not installed. kept: the folder where traces lie all the same."""
    if not installed():
        what = f"traces and platforms are in {kept}" if kept else "--trace FOLDER writes what it would simulate"
        raise UsageError(
            f"{PROGRAM} is not installed, by which SimGrid simulates a network: apt-get install {PACKAGE} (Debian, "
            f"Ubuntu), or simgrid.org; without it, {what}"
        )


def seconds(traffic: Traffic, limit: float) -> float:
    """Seconds that the traffic takes on its network. limit: seconds after which the simulation is given up."""
    with tempfile.TemporaryDirectory(prefix="mpisign-project-") as folder:
        return run(write(traffic, Path(folder)), Path(folder), limit)


def run(command: list[str], folder: Path, limit: float) -> float:
    """What smpirun says of the trace in a folder, in seconds of a network that is not slowed down."""
    code, said = _ended(command, folder, limit)
    found = TIME.findall(said)
    if code or not found:
        lines = said.strip().splitlines()
        told = [line for line in lines if re.search(r"ERROR|CRITICAL|what\(\)", line)] or lines
        raise MpisignError(f"{PROGRAM} ended with {code} and no time: {' / '.join(told[-3:])}")
    return max(map(float, found)) / SLOWER


def _ended(command: list[str], folder: Path, limit: float) -> tuple[int, str]:
    """The exit code and the output of a command, which ends with this process, whatever ends it."""
    # smpirun is a script, whose simulator would live on: so all of its group is ended, by TERM too
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        said, _ = process.communicate(timeout=limit)
        return process.returncode, said
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise UsageError(
                f"{PROGRAM} did not end within --limit {limit:g}s; raise it, or simulate fewer nodes or --shifts"
            ) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
