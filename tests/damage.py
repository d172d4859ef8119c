"""Files that are damaged or made by somebody else, and what comes of them: a table for each kind of file.

python -m tests.damage                 300 flipped bits and 300 cuts of each file, all forgeries
python -m tests.damage --cases 50      fewer

Every case is read in a process of its own, so that a crash or a hang is seen as what it is.
"""

import contextlib
import io
import json
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
import h5py
import numpy as np

from mpisign import cli, config
from mpisign.cli.show import describe
from mpisign.errors import MpisignError
from mpisign.run.resume import ResumeOptions
from mpisign.run.train import simulate
from mpisign.storage import checkpoint, checksum, superblock
from mpisign.storage.reader import Run, load_parameters

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


# Forgeries: files that are whole, but hold what no program of ours writes


def replace(group: h5py.Group, name: str, value: object, **how: object) -> None:
    """A dataset in place of another, with the attributes of that one but its checksum."""
    kept = {k: v for k, v in group[name].attrs.items() if k != "crc32"} if name in group else {}
    if name in group:
        del group[name]
    group.create_dataset(name, data=value, **how).attrs.update(kept)


def put(name: str, value: object, **how: object) -> Callable[[h5py.File], None]:
    return lambda file: replace(file, name, value, **how)


def said(name: str, value: object) -> Callable[[h5py.File], None]:
    """An attribute with another value, or without one."""

    def forge(file):
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value

    return forge


def row(name: str, at: int, value: object) -> Callable[[h5py.File], None]:
    """A value in a column, with no checksums in that table: as an older version, or a forger, leaves it."""

    def forge(file):
        file[name][at] = value
        file[name].parent.pop("crc32", None)

    return forge


def column(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File], None]:
    def forge(file):
        values = make(file[name][()])
        file[name].parent.pop("crc32", None)
        replace(file, name, values)

    return forge


def link(name: str, to: object) -> Callable[[h5py.File], None]:
    def forge(file):
        del file[name]
        file[name] = to

    return forge


def external(name: str, shape: tuple, dtype: str, secret: str) -> Callable[[h5py.File], None]:
    def forge(file):
        del file[name]
        size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        file.create_dataset(name, shape, dtype, external=[(secret, 0, size)])

    return forge


def virtual(name: str, shape: tuple, dtype: str, other: str) -> Callable[[h5py.File], None]:
    def forge(file):
        del file[name]
        layout = h5py.VirtualLayout(shape, dtype)
        layout[...] = h5py.VirtualSource(other, "x", shape)
        file.create_virtual_dataset(name, layout)

    return forge


def bomb(name: str, shape: tuple, dtype: str, **how: object) -> Callable[[h5py.File], None]:
    """A dataset that claims any number of values, of which none is stored."""

    def forge(file):
        del file[name]
        file.create_dataset(name, shape, dtype, **how)

    return forge


def strange_types(name: str) -> dict[str, Callable[[h5py.File], None]]:
    """Values of other types and shapes in place of an array."""
    pair = np.dtype([("a", "f8"), ("b", "f8")])
    return {
        f"{name} complex": column(name, lambda v: v.astype(float) + 1j),
        f"{name} of text": column(name, lambda v: np.full(v.shape, b"x")),
        f"{name} of pairs": column(name, lambda v: np.zeros(v.shape, pair)),
        f"{name} of references": lambda f: (f.pop(name), f.create_dataset(name, (3,), h5py.ref_dtype)),
        f"{name} of rows of any length": lambda f: (f.pop(name), f.create_dataset(name, (3,), h5py.vlen_dtype("f8"))),
        f"{name} with another dimension": column(name, lambda v: np.stack([v, v], axis=-1)),
        f"{name} without a shape": lambda f: (f.pop(name), f.__setitem__(name, h5py.Empty("f8"))),
        f"{name} a group": lambda f: (f.pop(name), f.create_group(name)),
        f"{name} missing": lambda f: f.pop(name),
    }


def run_forgeries(folder: Path) -> dict[str, Callable[[h5py.File], None]]:
    """What somebody may do to a run file. folder: has a file `secret`, a pipe `pipe` and an HDF5 file `other.h5`."""
    secret, pipe, other = (str(folder / name) for name in ("secret", "pipe", "other.h5"))
    far = 10**12
    return {
        "config from another file": external("config", (), "S64", secret),
        "config from a pipe": external("config", (), "S64", pipe),
        "config by a link": link("config", h5py.ExternalLink(other, "/text")),
        "steps by a link": link("steps", h5py.ExternalLink(other, "/steps")),
        "steps by a link to a pipe": link("steps", h5py.ExternalLink(pipe, "/steps")),
        "loss by a soft link to a link": lambda f: (
            f.__setitem__("far", h5py.ExternalLink(other, "/x")),
            link("steps/loss", h5py.SoftLink("/far"))(f),
        ),
        "loss by a link in circles": link("steps/loss", h5py.SoftLink("/steps/loss")),
        "loss a virtual dataset": virtual("steps/loss", (90,), "f8", other),
        "loss from another file": external("steps/loss", (90,), "f8", secret),
        **strange_types("steps/loss"),
        **strange_types("partition/rows"),
        "loss of 10^15 rows": bomb("steps/loss", (10**15,), "f8", chunks=(512,)),
        "all columns of 10^15 rows": lambda f: [f[name].resize((10**15,)) for name in _columns(f, "steps")],
        "one chunk of 10^9 values, packed": bomb("steps/loss", (10**9,), "f8", chunks=(10**8,), compression="gzip"),
        "rows of 10^15 ranks": bomb("partition/rows", (10**15,), "i8"),
        "packed names": put("layout/name", np.zeros(10**6, "S400"), compression="gzip", chunks=(10**6,)),
        "a step of 10^12": row("steps/step", -1, far),
        "an event after 10^12 steps": row("events/step", -1, far),
        "a step before the first": row("steps/step", 0, -1),
        "steps that go back": column("steps/step", lambda v: v[::-1].copy()),
        "bytes that are negative": row("steps/bytes_up", -1, -5),
        "unsigned bytes out of range": column("steps/bytes_up", lambda v: np.full(v.shape, 2**64 - 1, np.uint64)),
        "seconds that are no number": row("steps/seconds", -1, np.nan),
        "an event in the year 10^300": row("events/time", 0, 1e300),
        "an event at no time": row("events/time", 0, np.nan),
        "threads without end": row("segments/threads", -1, far),
        "n a text": said("n", "two"),
        "n of 0": said("n", 0),
        "n an array": said("n", [2, 2]),
        "n complex": said("n", 2 + 1j),
        "d of 0": said("d", 0),
        "d of 10^30": said("d", 1e30),
        "no algorithm": said("algorithm", None),
        "an algorithm of 10^4 letters": said("algorithm", "x" * 10**4),
        "an algorithm in no encoding": said("algorithm", np.bytes_(b"\xff\xfe\x9b")),
        "a format that is no number": said("format_version", "one"),
        "a format without end": said("format_version", 10**9),
        "a filetype of two": said("filetype", [b"mpisign-run", b"mpisign-run"]),
        "config in no encoding": put("config", np.bytes_(b"\xff\xfe = 3")),
        "config that is no TOML": put("config", np.bytes_(b"[run\n" * 9)),
        "config nested without end": put("config", np.bytes_(b"a = " + b"[" * 9000)),
        "config without tables": put("config", np.bytes_(b"run = 3")),
        "config empty": put("config", np.bytes_(b"# nothing")),
        "config a number": put("config", 3.0),
        "a rate that is a word": lambda f: put(
            "config", np.bytes_(_text(f["config"]).replace("lr = ", 'lr = "fast" # '))
        )(f),
        "another job's checksums": lambda f: f["steps/crc32"].write_direct(f["steps/crc32"][()] + np.uint32(1)),
        "checksums of nothing": lambda f: f["steps/crc32"].attrs.modify("columns", b"nothing"),
        "checksums of a number": lambda f: f["steps/crc32"].attrs.modify("columns", 3.0),
    }


def checkpoint_forgeries(folder: Path) -> dict[str, Callable[[h5py.File], None]]:
    """The same for a checkpoint, whose own checksum is then made anew."""
    secret, pipe, other = (str(folder / name) for name in ("secret", "pipe", "other.h5"))

    def progress(**new):
        return lambda f: put("progress", json.dumps(json.loads(f["progress"][()]) | new))(f)

    return {
        **strange_types("arrays/x"),
        "x of float64": column("arrays/x", lambda v: v.astype(np.float64)),
        "x of float16": column("arrays/x", lambda v: v.astype(np.float16)),
        "x longer": column("arrays/x", lambda v: np.append(v, v)),
        "x of 10^15 values": bomb("arrays/x", (10**15,), "f4"),
        "x from another file": external("arrays/x", (64,), "f4", secret),
        "x from a pipe": external("arrays/x", (64,), "f4", pipe),
        "x by a link": link("arrays/x", h5py.ExternalLink(other, "/x")),
        "x a virtual dataset": virtual("arrays/x", (64,), "f4", other),
        "arrays by a link": link("arrays", h5py.ExternalLink(other, "/")),
        "arrays a dataset": link("arrays", np.zeros(3)),
        "layout by a link": link("layout", h5py.ExternalLink(other, "/text")),
        "layout of numbers": put("layout", np.zeros(4)),
        "layout in no encoding": put("layout", np.bytes_(b"\xff")),
        "layout of escape sequences": put("layout", "\x1b]0;title\x07"),
        "a step of 10^12": said("step", 10**12),
        "a step of -1": said("step", -1),
        "a step of one half": said("step", 0.5),
        "a step of 2^64 - 1": said("step", np.uint64(2**64 - 1)),
        "a step of three": said("step", [30, 30, 30]),
        "no step": said("step", None),
        "begun after it": said("begun", 31),
        "n of 3": said("n", 3),
        "n a text": said("n", "2"),
        "n missing": said("n", None),
        "definition a number": said("definition", 3),
        "config in no encoding": put("config", np.bytes_(b"\xff")),
        "config that is no TOML": put("config", "[[["),
        "config without tables": put("config", "run = 3"),
        "progress that is no JSON": put("progress", "{"),
        "progress nested without end": put("progress", "[" * 10**5),
        "progress a list": put("progress", "[]"),
        "progress empty": put("progress", "{}"),
        "rows of words": progress(rows={"steps": "all"}),
        "rows of another table": progress(rows={"\x1b[31mred": 3}),
        "rows a list": progress(rows=[30]),
        "counters negative": progress(counters={"up": -1}),
        "counters without end": progress(counters={"up": 10**400}),
        "counters no numbers": progress(counters={"seconds": float("nan")}),
        "best a word": progress(best="good"),
        "kept at no step": progress(kept_step="last"),
    }


def _columns(file: h5py.File, name: str) -> list[str]:
    return [f"{name}/{key}" for key in file[name]]


def _text(data: h5py.Dataset) -> bytes:
    return data[()].decode()


def prepare(folder: Path) -> None:
    """What forgeries point to."""
    (folder / "secret").write_text("a secret that no report may show\n" * 100)
    os.mkfifo(folder / "pipe")
    with h5py.File(folder / "other.h5", "w") as file:
        file["x"], file["text"] = np.ones(90), "another file's text"
        file["steps/step"] = np.arange(5)


def forge(original: Path, copy: Path, how: Callable[[h5py.File], None]) -> None:
    """A file with its forgery; a checkpoint's checksum fits again."""
    shutil.copy(original, copy)
    with h5py.File(copy, "r+", libver="latest") as file:
        how(file)
    if copy.parent.suffix == ".checkpoints":
        with copy.open("r+b") as raw:
            checksum.seal(raw, "checkpoint", 1)
    os.utime(copy, (1.7e9, 1.7e9))


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
