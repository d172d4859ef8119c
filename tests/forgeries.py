"""Forgeries: files that are whole, but hold what no program of ours writes; see damage.py."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from mpisign.storage import checksum


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
