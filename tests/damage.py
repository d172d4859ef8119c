"""Files that are damaged or made by somebody else, and what comes of them: a table for each kind of file.

python -m tests.damage                 300 flipped bits and 300 cuts of each file, all forgeries
python -m tests.damage --cases 50      fewer

Every case is read in a process of its own, so that a crash or a hang is seen as what it is.
"""

import contextlib
import io
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from mpisign import cli, config
from mpisign.cli.show import describe
from mpisign.errors import MpisignError
from mpisign.run.resume import ResumeOptions
from mpisign.run.train import simulate
from mpisign.storage import checkpoint, superblock
from mpisign.storage.reader import Run, load_parameters
from tests.forgeries import checkpoint_forgeries, forge, prepare, run_forgeries

CASES, SEED = 300, 7
SECONDS = 20.0  # after which something hangs: 5 would do on an idle machine
TOOK: list[float] = []  # seconds of every case
OUTCOMES = ("message", "unchanged", "different", "traceback", "signal", "hang")
SETTINGS = ("problem.name=quadratic", "run.steps=90", "checkpoint.every_steps=30", "run.record_every=1", "run.seed=3")


# The files


def make_files(folder: Path) -> dict[str, Path]:
    """A complete run file, one as a kill leaves it, a checkpoint, a model; and a run that can go on, `open`."""
    quietly(*SETTINGS, f"run.file={folder}/complete.h5")
    with contextlib.suppress(MpisignError):
        quietly(*SETTINGS, f"run.file={folder}/open.h5", "run.max_minutes=1e-6")
    (saved,) = checkpoint.saved(folder / "open.h5")
    killed = folder / "killed.h5"
    killed.write_bytes(as_killed((folder / "complete.h5").read_bytes()))
    return {
        "complete": folder / "complete.h5",
        "killed": killed,
        "checkpoint": saved,
        "model": folder / "complete.model",
        "open": folder / "open.h5",
    }


def quietly(*settings: str) -> None:
    simulate(config.load(None, settings), 2, quiet=True, options=ResumeOptions())


def as_killed(raw: bytes) -> bytes:
    """A run file as its writer leaves it that is killed: marked as being written."""
    image = bytearray(raw)
    image[superblock.FLAGS] = 5
    own = superblock.lookup3(bytes(image[: superblock.CHECKSUM])).to_bytes(4, "little")
    image[superblock.CHECKSUM : superblock.SIZE] = own
    return bytes(image)


# What is read of them


def of_run(path: Path) -> object:
    """All that a run file holds, and what is printed of it."""
    run = Run(path)
    shown = describe(run).replace(str(path), "")
    return _plain([run.attributes, run.config_text, run.layout, run.partition, run._tables, shown])


def of_checkpoint(path: Path) -> object:
    with checkpoint.Checkpoint(path) as opened:
        arrays = {name: opened[name] for name in opened.names()}
        return _plain([opened.attributes, opened.config, opened.layout, opened.progress, arrays])


def of_model(path: Path) -> object:
    return _plain(load_parameters(path))


READ = {"complete": of_run, "killed": of_run, "checkpoint": of_checkpoint, "model": of_model}


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def apart(work: Callable[[], object], seconds: float = SECONDS) -> tuple[str, object]:
    """What comes of work() in a process of its own: an outcome, and its text or what work() returned."""
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        os.close(receive)
        os._exit(_work(work, send))
    os.close(send)
    begin, told, hung = time.monotonic(), b"", False
    os.set_blocking(receive, False)
    while time.monotonic() - begin < seconds:
        with contextlib.suppress(BlockingIOError):
            if not (part := os.read(receive, 1 << 16)):
                break
            told += part
            continue
        time.sleep(0.001)
    else:
        hung = True
        os.kill(child, signal.SIGKILL)
    os.close(receive)
    _, status = os.waitpid(child, 0)
    TOOK.append(time.monotonic() - begin)
    if hung:
        return "hang", f"after {seconds} s"
    return ("signal", signal.Signals(os.WTERMSIG(status)).name) if os.WIFSIGNALED(status) else pickle.loads(told)


def _work(work: Callable[[], object], send: int) -> int:
    try:
        # what a library prints of an error is no outcome
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 2)
        found = ("unchanged", work())
    except MpisignError as error:
        found = ("message", str(error))
    except click.ClickException as error:
        found = ("message", error.format_message())
    except BaseException:
        found = ("traceback", traceback.format_exc())
    with os.fdopen(send, "wb") as pipe:
        pickle.dump(found, pipe)
    return 0


# Damage


def damaged(raw: bytes, case: int, kind: str) -> bytes:
    """A bit flipped, in every other case where something stands; or the end cut off."""
    rng = np.random.default_rng((SEED, case, kind == "cuts"))
    if kind == "cuts":
        return raw[: int(rng.integers(len(raw)))]
    used = np.flatnonzero(np.frombuffer(raw, np.uint8)) if case % 2 else np.arange(len(raw))
    at = int(rng.choice(used))
    return raw[:at] + bytes([raw[at] ^ 1 << int(rng.integers(8))]) + raw[at + 1 :]


def damage(name: str, file: Path, kind: str, cases: range) -> tuple[Counter, list[str]]:
    """How often each outcome came of reading a file that was damaged so; and what is wrong with the cases that are."""
    raw, where = file.read_bytes(), file.with_name(f"spoilt-{file.name}")
    where.write_bytes(raw)
    _, right = apart(lambda: READ[name](where))
    counts, wrong = Counter(), []
    for case in cases:
        where.write_bytes(damaged(raw, case, kind))
        # of last year: nobody is writing it
        os.utime(where, (1.7e9, 1.7e9))
        outcome, found = apart(lambda: READ[name](where))
        if outcome == "unchanged" and found != right:
            outcome, found = "different", ""
        if outcome == "message" and str(where) not in str(found):
            outcome = "traceback"
        counts[outcome] += 1
        if outcome not in ("message", "unchanged"):
            wrong.append(f"{name}, {kind} {case}: {outcome}: {found}")
    where.unlink()
    return counts, wrong


def table(rows: dict[str, Counter]) -> str:
    """Outcomes by case, for a terminal."""
    width = max(map(len, rows))
    lines = [f"{'':{width}}  {'  '.join(OUTCOMES)}"]
    lines += [f"{row:{width}}  {'  '.join(f'{counts[o]:{len(o)}}' for o in OUTCOMES)}" for row, counts in rows.items()]
    return "\n".join(lines)


def command(*words: object) -> str:
    """The command line in this process: what it prints on stdout."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        cli.cli([str(word) for word in words], standalone_mode=False)
    return out.getvalue()


def judge(work: Callable[[], object], right: object) -> tuple[str, object]:
    outcome, found = apart(work)
    return ("different", found) if outcome == "unchanged" and found != right else (outcome, found)


def forged_runs(files: dict[str, Path], names: list[str] | None = None) -> dict[str, dict[str, tuple[str, object]]]:
    """What commands say to each forgery of a run file: by its name, then by the command."""
    folder, found = files["complete"].parent, {}
    where = folder / "forged.h5"
    commands = {
        "show": lambda: command("show", where),
        "config": lambda: command("show", "--config", where),
        "csv": lambda: command("show", "--csv", "steps", where),
        "follow": lambda: command("show", "--follow", where),
        "repair": lambda: command("repair", where, "--output", folder / f"saved-{os.getpid()}.h5") and "",
    }
    shutil.copy(files["complete"], where)
    right = {name: apart(work)[1] for name, work in commands.items()}
    for name, how in run_forgeries(folder).items():
        if names is None or name in names:
            forge(files["complete"], where, how)
            found[name] = {verb: judge(work, right[verb]) for verb, work in commands.items()}
    return found


def forged_checkpoints(files: dict[str, Path], names: list[str] | None = None) -> dict[str, dict[str, tuple]]:
    """What `resume` and `--init-from` say to each forgery of a checkpoint."""
    folder, found = files["open"].parent, {}
    run, new = folder / "resumed.h5", folder / "new.h5"
    where = checkpoint.path_at(run, 30)
    settings = [word for s in (*SETTINGS, f"run.file={new}", "run.overwrite=true") for word in ("--set", s)]
    # nothing of the run's clock is compared
    commands = {
        "resume": lambda: command("resume", "--max-time", 100, run) and _numbers(run),
        "init": lambda: command("simulate", "-n", 2, *settings, "--init-from", where) and _numbers(new),
    }
    saved = checkpoint.saved(files["open"])[0]
    right = {}
    for name, how in {"": lambda file: None, **checkpoint_forgeries(folder)}.items():
        if not name or names is None or name in names:
            results = {}
            for verb, work in commands.items():
                # what the command before has written is nobody's business
                for folder in (checkpoint.folder(run), checkpoint.folder(new)):
                    shutil.rmtree(folder, ignore_errors=True)
                where.parent.mkdir()
                shutil.copy(files["open"], run)
                forge(saved, where, how)
                results[verb] = judge(work, right[verb]) if name else apart(work)
            if name:
                found[name] = results
            else:
                right = {verb: told for verb, (_, told) in results.items()}
    return found


def _numbers(run: Path) -> object:
    found = Run(run)
    return _plain([found["steps"]["loss"], found["steps"]["bytes_up"], found["eval"]["train_loss"], found.complete])


def outcomes(found: dict[str, dict[str, tuple[str, object]]]) -> tuple[Counter, list[str]]:
    counts, wrong = Counter(), []
    for name, results in found.items():
        for verb, (outcome, told) in results.items():
            counts[outcome] += 1
            if outcome not in ("message", "unchanged"):
                wrong.append(f"{name}, {verb}: {outcome}: {told}")
    return counts, wrong


def main() -> None:
    cases = range(int(sys.argv[sys.argv.index("--cases") + 1]) if "--cases" in sys.argv else CASES)
    rows, wrong = {}, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        files = make_files(folder)
        for kind in ("flips", "cuts"):
            for name in READ:
                rows[f"{name}, {len(cases)} {kind}"], bad = damage(name, files[name], kind, cases)
                wrong += bad
        for name, forged in (("run files", forged_runs(files)), ("checkpoints", forged_checkpoints(files))):
            rows[f"{len(forged)} forged {name}"], bad = outcomes(forged)
            wrong += bad
    print(*wrong, table(rows), f"slowest: {max(TOOK):.1f} s", sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
