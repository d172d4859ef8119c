"""Reads a run file, while it grows or afterwards. Needs neither torch nor MPI.

>>> run = Run("runs/digits-signum-mv-n8-seed1.h5")
>>> run["eval"]["test_accuracy"][-1]
"""

import html
import importlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mpisign.errors import UsageError, choices, did_you_mean, printable
from mpisign.storage import hdf5, lock, runfile, validation
from mpisign.storage.hdf5 import Malformed
from mpisign.storage.schema import FILETYPE, FORMAT_VERSION, SIMULATED, TABLES

MODEL_FORMAT = 1
ATTEMPTS = 3  # at a file that somebody may be writing
# of the figures that a run prints, by their names
UNITS = (
    ("n", "voter(s)"),
    ("d", "coordinates"),
    (".*accuracy", "of the held-out rows"),
    ("seconds", "s"),
    ("steps_per_second", "steps/s"),
    ("gradient_evaluations|evaluations_per_step", "gradients of single rows, all voters together"),
    ("function_evaluations(_per_step)?", "function values of single rows, all voters together"),
    (".*bytes_(up|down)|bytes_per_step", "bytes per rank"),
    ("(shared_)?memory_per_.*", "bytes"),
    (".*bits_per_coordinate", "per rank and step"),
)
OF_A_DATASET = ("algorithm", "problem", "n", "seed")  # attributes that a table of xarray takes along
FORMULAS = ("=", "+", "-", "@")  # a cell of text that begins so is computed by spreadsheets


class NotARun(UsageError):
    """A file of HDF5 that is none of mpisign's runs."""


class Run:
    """A run: attributes as a dict, tables as dicts of numpy columns, and a summary.

    Raises UsageError if the file is missing, damaged, no run file, of a newer format, or holds what no run file may:
    values of another kind, numbers that can't be, links into other files. With salvage, rows that can't be read or are
    damaged are left out, and `lost` tells of them.
    """

    def __init__(self, path: str | Path, salvage: bool = False):
        self.path = Path(path)
        for attempt in range(ATTEMPTS):
            self.lost: list[str] = []
            try:
                with hdf5.opened(self.path) as file:
                    self._read(file, salvage)
                return
            except UsageError:
                raise
            except Exception as error:  # whatever HDF5 and its contents may come to when bytes are wrong
                if attempt + 1 < ATTEMPTS and _fresh(self.path):
                    # somebody may have written it just then
                    time.sleep(0.2)
                    continue
                what = str(error) if isinstance(error, Malformed) else f"damaged: {hdf5.first_line(error)}"
                remedy = "" if salvage else f"; mpisign repair {path} saves what can be read"
                raise UsageError(f"{path}: {what}{remedy}") from error

    def _read(self, file: h5py.File, salvage: bool) -> None:
        self.attributes = hdf5.attributes(file)
        if self.attributes.get("filetype") != FILETYPE:
            raise NotARun(f"{self.path}: an HDF5 file, but not a run of mpisign")
        version = self.attributes.get("format_version")
        if type(version) is not int or version < 1:
            raise Malformed(f"attribute format_version = {version!r:.80}: a number from 1 on is needed")
        if version > FORMAT_VERSION:
            known = f"this mpisign reads up to {FORMAT_VERSION}; update mpisign"
            raise UsageError(f"{self.path}: format {version}, but {known}")
        if wrong := validation.wrong_attribute(self.attributes):
            raise Malformed(wrong)
        lost = self.lost if salvage else None
        self.config_text: str = hdf5.text(file, "config", lost)
        self.config: dict[str, dict] = runfile.job(self.config_text, validation.CONFIG)  # every default written out
        self.layout, self.partition = (runfile.fixed(file, group, lost) for group in ("layout", "partition"))
        # a run of an older mpisign lacks the tables that came later: they are empty
        self._tables = {table: runfile.empty(table) for table in TABLES}
        for table in TABLES:
            if (group := hdf5.find(file, table)) is not None:
                self._tables[table] = runfile.table(group, table, validation.length(self.config), lost)

    def __getitem__(self, table: str) -> dict[str, np.ndarray]:
        """A table as a dict of columns of one length; see schema.py. Raises KeyError that lists the tables."""
        if table not in self._tables:
            raise KeyError(f"no table {table!r}{did_you_mean(table, TABLES)}; tables are: {choices(TABLES)}")
        return self._tables[table]

    def __repr__(self) -> str:
        """What a terminal shows: the summary, and the tables with their rows."""
        return "\n".join([f"Run({str(self.path)!r})", *self._described()])

    def _repr_html_(self) -> str:
        """What a notebook shows: the same as a table of HTML, in which no text from the file is markup."""
        cells = (line.partition(": ") for line in self._described())
        rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, _, text in cells)
        return f"<table><caption>Run {html.escape(printable(self.path))}</caption>{rows}</table>"

    def _described(self) -> list[str]:
        tables = ", ".join(f"{name} ({rows})" for name, rows in self.tables.items())
        return [*summary_lines(self.summary()), f"tables (rows): {tables}"]

    @property
    def settings(self) -> dict[str, object]:
        """The job by dotted names, such as schedule.lr."""
        return {f"{table}.{key}": value for table, keys in self.config.items() for key, value in keys.items()}

    @property
    def tables(self) -> dict[str, int]:
        """The names of the tables, and how many rows each has."""
        return {name: len(next(iter(columns.values()))) for name, columns in self._tables.items()}

    @property
    def complete(self) -> bool:
        """Whether the run came to its end: its last event says so."""
        return "complete" in self["events"]["kind"][-1:]

    @property
    def simulated(self) -> bool:
        """Whether all voters ran in one process without MPI."""
        return SIMULATED in self["segments"]["mpi"][-1:]

    @property
    def status(self) -> str:
        """complete; error or stopped, where and why; or incomplete: the run goes on, or was killed."""
        state, events = self.state, self["events"]
        if state == "error":
            return f"error at step {events['step'][-1]}: {events['text'][-1]}"
        if state == "stopped":
            return events["text"][-1] or state
        unknown = {"running": "incomplete: it goes on", "killed": "incomplete: it was killed, or goes on elsewhere"}
        return unknown.get(state, state)

    @property
    def state(self) -> str:
        """complete, error or stopped; or, of a run without an end, running or killed, as far as locks tell."""
        states = {"complete": "complete", "error": "error", "stop": "stopped"}
        for kind in self["events"]["kind"][-1:]:
            if kind in states:
                return states[kind]
        return "running" if lock.held(self.path) else "killed"

    @property
    def ranks_per_voter(self) -> int:
        """How many ranks were a voter each: more than one where exchange.voter = "node"."""
        exchange = self.config["exchange"]
        each = exchange.get("node_size") if exchange.get("voter") == "node" else 1
        return each if isinstance(each, int) and each > 0 else 1

    @property
    def stretches(self) -> list[tuple[int, int]]:
        """(steps before it, voters) of every stretch that the run went with one number of voters, as its rows stand.

        The attribute n and /partition are those of the last one.
        """
        found: list[tuple[int, int]] = []
        for step, n in zip(self["segments"]["step"].tolist(), self["segments"]["n"].tolist(), strict=True):
            # what a segment takes the place of has left no rows
            found = [one for one in found if one[0] < step]
            if not found or found[-1][1] != n:
                found.append((step, n))
        return found or [(0, int(self.attributes["n"]))]

    @property
    def voters(self) -> str:
        """How many voters the run had, one stretch after the other: 8, or 8-6-8."""
        return "-".join(str(n) for _, n in self.stretches)

    def voters_at(self, steps: np.ndarray) -> np.ndarray:
        """How many voters took each of these steps, counted from 1: int64, of the same shape."""
        begun, n = np.array(self.stretches, dtype=np.int64).T
        return n[np.maximum(np.searchsorted(begun, steps) - 1, 0)]

    def score(self, metric: str) -> float:
        """A column of /eval at the end, less being better (accuracy is negated); infinite if it did not complete."""
        values = self["eval"][metric]
        if not self.complete or not len(values) or not np.isfinite(values[-1]):
            return float("inf")
        return float(-values[-1] if metric == "test_accuracy" else values[-1])

    @property
    def bits_per_coordinate(self) -> float:
        """The method's own bits of a rank and step, both ways, over d: the same whatever the machine and exchange.

        Mean over ranks and steps; NaN where a run of an older mpisign does not tell.
        """
        return self._per_coordinate(self.method_bytes("steps"))

    @property
    def wire_bits_per_coordinate(self) -> float:
        """Bits that the exchange had a rank send in a step, both ways, over d, headers included; likewise."""
        return self._per_coordinate(self.wire_bytes("steps"))

    def _per_coordinate(self, sent: np.ndarray) -> float:
        if not len(sent):
            return float("nan")
        return 8 * float(sent[-1]) / (self.attributes["d"] * float(self["steps"]["step"][-1]))

    def method_bytes(self, table: str) -> np.ndarray:
        """The method's own bytes so far, up and down, at each row of /steps or /eval: mean over ranks, float64.

        A run of an older mpisign does not tell: they are then the bytes of its exchange where that sends what the
        method says (sharded, dense, and local, which sends nothing), headers included, and NaN elsewhere.
        """
        rows = self[table]
        if "method_bytes_up" in rows:
            return rows["method_bytes_up"] + rows["method_bytes_down"]
        by_definition = set(str(self.attributes["exchange"]).split(", ")) <= {"sharded", "dense", "local"}
        return self.wire_bytes(table).astype(float) if by_definition else np.full(len(rows["step"]), np.nan)

    def wire_bytes(self, table: str) -> np.ndarray:
        """Bytes that the exchange had a rank send so far, up and down, likewise: int64."""
        return self[table]["bytes_up"] + self[table]["bytes_down"]

    @property
    def bytes_note(self) -> str:
        """Why hardly anything, or nothing, was sent; "" where bytes speak for themselves."""
        if self.voters == "1":
            return "one voter: nothing travels"
        notes = []
        if self.simulated:
            notes.append(f"simulated: nothing travelled, bytes are those of {self.attributes['exchange']} by formula")
        if "hierarchical" in str(self.attributes["exchange"]).split(", ") and self._on_one_node:
            notes.append("hierarchical on one node: votes are counted in shared memory, only headers are sent")
        return "; ".join(notes)

    @property
    def _on_one_node(self) -> bool:
        size, hosts = self.config["exchange"].get("node_size", 0), self["segments"]["hosts"]
        size = size if self.ranks_per_voter == 1 else 0
        return size >= self.attributes["n"] or (not size and len(hosts) > 0 and "," not in hosts[-1])

    def columns(self, table: str) -> dict[str, np.ndarray]:
        """A table as columns of single values, (rows,) each, for CSV, data frames and Parquet.

        A column with several values per row, such as probes/voter_success, becomes one for each: voter_success_0, ...
        """
        flat: dict[str, np.ndarray] = {}
        for name, column in self[table].items():
            flat |= {name: column} if column.ndim == 1 else {f"{name}_{k}": part for k, part in enumerate(column.T)}
        return flat

    def to_pandas(self, table: str = "steps") -> Any:
        """A table as a pandas.DataFrame, a column for each of `columns(table)`.

        Raises UsageError where pandas is not installed; mpisign does not need it otherwise.
        """
        return optional("pandas", "Run.columns(), a dict of numpy columns").DataFrame(self.columns(table))

    def to_xarray(self, table: str = "steps") -> Any:
        """A table as an xarray.Dataset along the coordinate `step`; /phases along `step` and `rank`.

        A column with several values per row, such as probes/voter_success, has a second dimension, by what it has a
        value for: voter, coordinate or bin. attrs: algorithm, problem, n and seed of the run. Raises KeyError as
        run[table] does, and UsageError where xarray is not installed.
        """
        columns, attributes = self[table], {k: v for k, v in self.attributes.items() if k in OF_A_DATASET}
        xarray = optional("xarray", "Run[table], a dict of numpy columns")
        if "rank" in columns:
            rows = xarray.Dataset({name: ("row", column) for name, column in columns.items()}, attrs=attributes)
            return rows.set_index(row=["step", "rank"]).unstack("row")
        each = {c.name: c.each for c in TABLES[table]}
        values = {name: (["step", each[name]][: column.ndim], column) for name, column in columns.items()}
        return xarray.Dataset(values, attrs=attributes)

    def summary(self) -> dict[str, object]:
        """The figures that `mpisign train` prints at its end, in the units of `told`."""
        steps, evals, a = self["steps"], self["eval"], self.attributes
        lines: dict[str, object] = {
            "status": self.status,
            "algorithm": a["algorithm"],
            "problem": a["problem"],
            "exchange": f"{a['exchange']} ({a['exchange_reason']})",
            "n": a["n"],
            **({"ranks_per_voter": each} if (each := self.ranks_per_voter) > 1 else {}),
            "d": a["d"],
            "steps": int(steps["step"][-1]) if len(steps["step"]) else 0,
        }
        if len(stretches := self.stretches) > 1:
            first, *later = stretches
            lines["voters"] = ", ".join([str(first[1]), *(f"{n} from step {step + 1} on" for step, n in later)])
        if len(evals["step"]):
            accuracy = evals["test_accuracy"]
            if np.isfinite(accuracy[-1]):
                best = int(np.nanargmax(accuracy))
                lines["test_accuracy"] = round(float(accuracy[-1]), 6)
                lines["best_test_accuracy"] = round(float(accuracy[best]), 6)
                lines["best_step"] = int(evals["step"][best])
            if np.isfinite(loss := evals["test_loss"][-1]):
                lines["test_loss"] = float(f"{loss:.6g}")
            lines["final_loss"] = float(f"{evals['train_loss'][-1]:.6g}")
        if len(steps["step"]):
            seconds = float(steps["seconds"][-1])
            lines["seconds"] = round(seconds, 2)
            lines["steps_per_second"] = round(float(steps["step"][-1]) / seconds, 1)
            lines["gradient_evaluations"] = int(steps["gradient_evaluations"][-1])
            # a run of an older mpisign has no such column
            if (values := steps.get("function_evaluations")) is not None and values[-1]:
                lines["function_evaluations"] = int(values[-1])
            lines["bytes_up"], lines["bytes_down"] = int(steps["bytes_up"][-1]), int(steps["bytes_down"][-1])
            lines["bits_per_coordinate"] = round(self.bits_per_coordinate, 4)
            lines["wire_bits_per_coordinate"] = round(self.wire_bits_per_coordinate, 4)
            if note := self.bytes_note:
                lines["bytes_note"] = note
        return lines | {"run_file": str(self.path)}


def optional(package: str, instead: str) -> Any:
    """A package that only some functions need. Raises UsageError where it is missing, with what serves instead."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        text = f"this needs {package}, which can't be imported ({error}): pip install {package}, or use {instead}"
        raise UsageError(text) from error


def summary_lines(figures: Mapping[str, object]) -> list[str]:
    """Figures such as a summary's as lines, `name: value unit`; of a list, `one or other`."""
    lines = []
    for name, value in figures.items():
        unit = next((unit for pattern, unit in UNITS if re.fullmatch(pattern, name)), "")
        if "ranks_per_voter" in figures:
            unit = unit.replace("per rank", "per voter")
        text = " or ".join(map(str, value)) if isinstance(value, list) else printable(value)
        lines.append(f"{name}: {text} {unit}".rstrip())
    return lines


def read_all(paths: Iterable[str | Path]) -> tuple[list[Run], list[str]]:
    """Run files, and all those in folders and the folders below, in the order of their names.

    Returns the runs, and a message for each file that can't be read or is none. Raises UsageError as run_files does.
    """
    runs, skipped = [], []
    for file in run_files(paths):
        try:
            runs.append(Run(file))
        except UsageError as error:
            skipped.append(str(error))
    return runs, skipped


def run_files(paths: Iterable[str | Path]) -> list[Path]:
    """Files as they are named, and those in folders and below that may be runs, by name; each once.

    Raises UsageError for a path that is not there, and a folder without such files.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UsageError(f"no file or folder {path}")
        inside = sorted(_below(path)) if path.is_dir() else [path]
        if not inside:
            raise UsageError(f"no run file (*.h5) in the folder {path}")
        files += inside
    return list(dict.fromkeys(files))


def _below(folder: Path) -> Iterator[Path]:
    """The files in a folder that may be runs: none that is being written aside, no checkpoint, none of a package."""
    for parent, folders, names in os.walk(folder):
        inside = Path(parent)
        # hidden folders and environments of Python are searched only where they are named
        folders[:] = [f for f in folders if not f.startswith(".") and not (inside / f / "pyvenv.cfg").exists()]
        if inside.suffix != ".checkpoints":
            named = (name for name in (*folders, *names) if name.endswith(".h5"))
            yield from (inside / name for name in named if not name.startswith("."))


def load_parameters(path: str | Path) -> dict[str, np.ndarray]:
    """The parameters in a `.model` file that a run kept: float32 arrays by name. Raises UsageError if it is damaged."""
    with _model(Path(path)) as file:
        try:
            group = hdf5.find(file, "parameters")
            return {name: hdf5.values(group, name, "fiub") for name in group or ()}
        except Exception as error:  # a file that something else made, or of an older mpisign and damaged
            raise UsageError(f"{path}: can't be read ({hdf5.first_line(error)})") from error


def model_step(path: str | Path) -> int:
    """The steps that a run had taken at the point in a `.model` file. Raises UsageError as load_parameters() does."""
    with _model(Path(path)) as file:
        step = hdf5.attributes(file).get("step")
        if type(step) is not int or step < 0:
            raise UsageError(f"{path}: attribute step = {step!r:.80}: a number from 0 on is needed")
        return step


@contextmanager
def _model(path: Path) -> Iterator[h5py.File]:
    with hdf5.sealed(path, "model", MODEL_FORMAT, bare=True) as file:
        if hdf5.attributes(file).get("filetype") != "mpisign-model":
            raise UsageError(f"{path}: an HDF5 file, but not a model of mpisign")
        yield file


def _fresh(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < 60
    except OSError:
        return False


def occupied(path: Path) -> bool:
    """Whether a file at this path is to be kept: any but that of a run that ended before it got anywhere.

    Such a run has no row beyond the step at which it began; see checkpoint.saved() for its checkpoints.
    """
    if not path.exists():
        return False
    try:
        run = Run(path)
        begun = run["segments"]["step"][0] if len(run["segments"]["step"]) else 0
        rows = (run[table]["step"] for table in ("steps", "phases", "eval", "probes", "trace"))
        return run.complete or any((steps > begun).any() for steps in rows)
    except UsageError:
        return True


def refuse_occupied(path: Path) -> None:
    """Raises UsageError where a new run would take the place of a file that is to be kept."""
    if occupied(path):
        raise UsageError(
            f"the run file {path} exists; set run.overwrite=true (or --overwrite) to replace it, "
            "or run.file=... to write another"
        )


def cell(value: object) -> object:
    """A value for a table in a file, such as CSV: numbers as they are, text that no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULAS) and not _number(text) else text


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
