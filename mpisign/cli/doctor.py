"""What may go wrong on a machine before anything is trained: checks, each with what to do about it."""

import contextlib
import os
import secrets
import shutil
import stat
import time
import timeit
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mpisign.bits import precompile
from mpisign.parallel import mpi, stopping
from mpisign.parallel.memory import MIB, MORE_SHARED, SHARED, shared_free
from mpisign.parallel.mpi import Ranks
from mpisign.storage import lock, parts, writer
from mpisign.storage.lock import Lock

SHARED_MEMORY = 256 << 20  # bytes in /dev/shm below which an MPI library may run out of it
# names of what MPI libraries, and what carries their messages, put there
SEGMENTS = ("mpich_shm_*", "Intel_MPI_*", "impi_shm*", "cray-shared-mem-*", "vader_segment.*", "sm_segment.*",
            "psm2_shm*", "psm3_shm*", "ucx_shm_*", "mv2-shm*", "fi_shm*")  # fmt: skip
YOUNG = 60.0  # seconds in which a segment's processes may not have opened it yet


@dataclass(frozen=True)
class Finding:
    """One line: "ok", "note" or "problem", what was looked at, what was found, and what to do."""

    state: str
    subject: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.state:8} {self.subject:10} {self.text}" + (f"\n{'':19} -> {self.remedy}" if self.remedy else "")


def examine(folder: Path, say: Callable[[str], None]) -> int:
    """Says all findings, on root, and returns the exit code: 0, or 1 where there is a problem. Collective.

    Raises UsageError if launcher and MPI do not fit together.
    """
    ranks = mpi.start()
    facts = ranks.gather(_facts())
    findings = _speed(ranks)
    if ranks.root:
        findings = [_mpi(ranks), *findings, *_pinning(facts), *_slurm(ranks), *_memory(facts), *_folder(folder)]
        findings += [_gpus(facts), _kernels()]
        for finding in findings:
            say(str(finding))
    bad = ranks.share(sum(f.state == "problem" for f in findings))
    if ranks.root:
        say(f"problems: {bad}")
    return int(bad > 0)


def _facts() -> dict:
    """What a rank knows of its place."""
    return {
        "host": os.uname().nodename,
        "cores": sorted(os.sched_getaffinity(0)),
        "all": os.cpu_count() or 1,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "shm": shared_free(),
        "left": (left := _left_behind()),
        "removed": _words(left),
        "parts": parts.leftovers(Path(SHARED)),
        "gpus": torch.cuda.device_count(),
    }


def _mpi(ranks: Ranks) -> Finding:
    if not ranks.comm:
        return Finding("note", "mpi", "no MPI library is found; one rank runs", "pip install 'mpisign[mpich]' for more")
    by = mpi.launch().by
    if not mpi.multithreaded():
        remedy = "unset MPI4PY_RC_THREAD_LEVEL, or use an MPI built with it"
        return Finding("problem", "mpi", f"{ranks.library} without THREAD_MULTIPLE, which the watchdog needs", remedy)
    if ranks.size == 1 and not by:
        return Finding("ok", "mpi", f"{ranks.library}, one rank; start under mpirun or srun to check more")
    return Finding("ok", "mpi", f"{ranks.library}, {ranks.size} ranks started by {by or 'a launcher'}: {ranks.hosts}")


def _speed(ranks: Ranks) -> list[Finding]:
    """A small and a large collective, timed: whether messages arrive, and at what pace."""
    if ranks.size == 1:
        return []
    comm, word = ranks.comm, np.ones(1, dtype=np.int64)
    total, out = np.zeros_like(word), np.ones((ranks.size, MIB // ranks.size), dtype=np.uint8)
    into, seconds = np.empty_like(out), []
    for call in (lambda: comm.Allreduce(word, total), lambda: comm.Alltoall(out, into)):
        call()
        seconds.append(timeit.timeit(call, number=20) / 20)
    if total[0] != ranks.size or not into.all():
        return [Finding("problem", "messages", "collectives return wrong values", "check the MPI installation")]
    text = f"Allreduce of 8 bytes {1e6 * seconds[0]:.0f} us, Alltoall of 1 MiB {1e3 * seconds[1]:.2f} ms"
    return [Finding("ok", "messages", text)]


def _pinning(facts: list[dict]) -> list[Finding]:
    """Cores of each rank: too few, or the same few for several ranks."""
    findings = []
    for host in dict.fromkeys(f["host"] for f in facts):
        on_host = [f for f in facts if f["host"] == host]
        owners = Counter(core for f in on_host for core in f["cores"])
        cores, ranks = len(owners), len(on_host)
        what = f"{host}: {ranks} rank(s) on {cores} of {on_host[0]['all']} core(s)"
        if ranks > on_host[0]["all"]:
            remedy = "start fewer ranks a node; for a trial it is fine, but seconds mean little"
            findings.append(Finding("note", "cores", f"{what}: they take turns", remedy))
        elif max(owners.values()) > 1 and (cores < ranks or any(len(f["cores"]) < cores for f in on_host)):
            remedy = "give each its own: srun --cpus-per-task, mpirun --bind-to core or none"
            findings.append(Finding("problem", "cores", f"{what}: several are pinned to the same core", remedy))
        else:
            pinned = "each its own" if max(owners.values()) == 1 else "not pinned"
            findings.append(Finding("ok", "cores", f"{what}, {pinned}"))
    set_to = {f["threads"] for f in facts} - {None}
    if any(int(t) > 1 for t in set_to if t.isdigit()):
        text = f"OMP_NUM_THREADS is {', '.join(sorted(set_to))}; run.threads rules torch's"
        findings.append(Finding("note", "threads", text))
    return findings


def _slurm(ranks: Ranks) -> list[Finding]:
    if "SLURM_JOB_ID" not in os.environ:
        return []
    end = stopping.slurm_end()
    left = f"ends in {(end - time.time()) / 60:.0f} min" if end else ""
    ends = left or "does not say when it ends: use --signal=B:USR1@120"
    findings = [Finding("ok", "slurm", f"job {os.environ['SLURM_JOB_ID']} {ends}")]
    if "SLURM_STEP_ID" not in os.environ and ranks.size == 1:
        remedy = "start with srun -K1 --mpi=pmi2, or the mpirun of your MPI"
        findings.insert(0, Finding("note", "slurm", "inside an allocation, but not started by srun or mpirun", remedy))
    return findings


def _memory(facts: list[dict]) -> list[Finding]:
    free = [f["shm"] for f in facts if f["shm"] is not None]
    if not free:
        return [Finding("note", SHARED, "is not there: ranks of a node may talk through the network")]
    least = min(free)
    state, remedy = ("problem", MORE_SHARED) if least < SHARED_MEMORY else ("ok", "")
    findings = [Finding(state, SHARED, f"{least // MIB} MiB free", remedy)]
    for host, (left, removed) in {f["host"]: (f["left"], f["removed"]) for f in facts}.items():
        if left:
            what = f"{len(left)} file(s) of yours, {sum(left.values()) / MIB:.1f} MiB"
            text = f"{host}: {what}, that no process here has open: of killed jobs"
            remedy = f"if no other container uses them: rm {' '.join(removed)}"
            findings.append(Finding("note", SHARED, text, remedy))
    for host, left in {f["host"]: f["parts"] for f in facts}.items():
        for folder, (run, size) in left.items():
            text = (
                f"{host}: checkpoints in memory, {size / MIB:.1f} MiB, of a run that nobody writes here: {run or '?'}"
            )
            remedy = f"go on with it by mpisign resume, on the same hosts; or rm -r {folder}"
            findings.append(Finding("note", SHARED, text, remedy))
    return findings


def _left_behind(folder: Path = Path(SHARED)) -> dict[str, int]:
    """Segments of MPI libraries, of this user, which no process that the user may look into has open: paths, bytes."""
    left = {}
    for path in (path for pattern in SEGMENTS for path in folder.glob(pattern)):
        with contextlib.suppress(OSError):
            info = path.lstat()
            if stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and time.time() - info.st_mtime > YOUNG:
                left[str(path)] = info.st_blocks * 512
    for process in Path("/proc").glob("[0-9]*") if left else ():
        try:
            if process.stat().st_uid == os.geteuid():
                used = (process / "maps").read_text(errors="replace")
                left = {path: size for path, size in left.items() if path not in used}
        except OSError:
            continue  # it has ended meanwhile, or lets nobody look: an MPI program does
    return left


def _words(left: Collection[str], folder: Path = Path(SHARED)) -> list[str]:
    """What `rm` is to be given: names, or one pattern for several, where all files of the user that fit it are left."""
    patterns, names = [], set(left)
    for pattern in SEGMENTS:
        own = {str(path) for path in folder.glob(pattern) if os.access(path, os.W_OK)}
        if len(own) > 1 and own <= names:
            patterns.append(f"{folder}/{pattern}")
            names -= own
    return patterns + sorted(names)


def _folder(folder: Path) -> list[Finding]:
    """Whether run files in a folder can grow, be read meanwhile and be locked, and how much space is free.

    A folder that does not exist yet is not made; its nearest parent that does stands for it.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    probe = existing / f".doctor-{os.getpid()}-{secrets.token_hex(4)}.h5"
    name = str(folder) if existing == folder else f"{folder} (not there yet)"
    try:
        held = Lock(probe)
        held.release()
        mode = writer.probe(probe)
    except OSError as error:
        remedy = "name a folder that can be written: mpisign doctor FOLDER"
        return [Finding("problem", "run files", f"{name}: {error.strerror or error}", remedy)]
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    free = shutil.disk_usage(existing).free // MIB
    findings = [Finding("ok", "run files", f"{name}: can be read while they grow (SWMR); {free} MiB free")]
    if mode != "swmr":
        remedy = "run files are rewritten whole every 30 s instead: run.recorder"
        findings = [Finding("note", "run files", f"{name}: no SWMR here; {free} MiB free", remedy)]
    if held.note:
        remedy = "start no run twice at a time; export HDF5_USE_FILE_LOCKING=FALSE for programs other than mpisign"
        findings.append(Finding("note", "run files", lock.NO_LOCKS.format(folder=name), remedy))
    return findings


def _gpus(facts: list[dict]) -> Finding:
    if not any(f["gpus"] for f in facts):
        return Finding("ok", "gpus", "none seen by torch; ranks compute on CPUs")
    seen = ", ".join(sorted({f"{f['host']}: {f['gpus']}" for f in facts}))
    aware = mpi.gpu_aware()
    text = f"seen by torch: {seen}; MPI {'takes' if aware else 'does not take'} their memory"
    remedy = "exchange.gpu_aware = true tries to send from them; by default words go through the host's memory"
    return Finding("ok", "gpus", text, remedy if aware else "")


def _kernels() -> Finding:
    begin = time.perf_counter()
    ready = precompile.are_compiled()
    state, seconds = precompile.state(), time.perf_counter() - begin
    if ready:
        return Finding("note" if state.remedy else "ok", "kernels", f"ready in {seconds:.1f} s, {state}", state.remedy)
    remedy = "compile them ahead, once for each kind of CPU: python -m mpisign.bits"
    text = "not compiled for this CPU yet: the first run does it, in half a minute or more"
    return Finding("note", "kernels", text, f"{remedy}; {state.remedy}" if state.remedy else remedy)
