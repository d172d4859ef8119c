"""The parts of a run file, read and checked: the job, arrays that are written once, tables that grow."""

import tomllib

import h5py
import numpy as np

from mpisign.errors import printable
from mpisign.storage import checksum, hdf5, validation
from mpisign.storage.hdf5 import CRC, Malformed
from mpisign.storage.schema import TABLES, Column


def job(text: str, required: tuple[str, ...] = ()) -> dict[str, dict]:
    """The tables of a job as it was written down. required: those that must be there."""
    try:
        config = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"damaged: /config: not the job as TOML ({hdf5.first_line(error)})") from error
    if lacking := [t for t in (*required, *config) if not isinstance(config.get(t), dict)]:
        raise Malformed(f"/config: {printable(lacking[0])} is no table of the job")
    for (name, key), kinds in validation.KEYS.items():
        if key in config.get(name, {}) and type(config[name][key]) not in kinds:
            raise Malformed(f"/config: {name}.{key} = {config[name][key]!r:.80}: it can't be")
    return config


def fixed(file: h5py.File, name: str, lost: list[str] | None) -> dict[str, np.ndarray]:
    """A group of arrays that are written once. lost: collects messages about damaged ones instead of raising."""
    arrays: dict[str, np.ndarray] = {}
    group = hdf5.find(file, name)
    for key, (kinds, dimensions) in validation.FIXED[name].items() if group is not None else ():
        try:
            arrays[key] = hdf5.values(group, key, kinds, (dimensions,))
        except (Malformed, OSError) as error:
            if lost is None:
                raise
            lost.append(f"/{name}/{key}: {hdf5.first_line(error)}")
    if len({len(array) for array in arrays.values()}) > 1:
        raise Malformed(f"/{name}: arrays of different lengths")
    return arrays


def empty(name: str) -> dict[str, np.ndarray]:
    """A table without rows."""
    return {c.name: np.empty(0, "U" if c.dtype.startswith("S") else c.dtype) for c in TABLES[name]}


def table(group: h5py.Group, name: str, steps: int, lost: list[str] | None) -> dict[str, np.ndarray]:
    """Columns of one length, whose values are as they were written and possible.

    steps: of the run. lost: collects messages about rows that can't be read or are damaged, instead of raising.
    """
    # opened first, so that of a file that grows no row is missed that has a checksum
    sums, covered = _sums(group)
    data = {c.name: column for c in TABLES[name] if (column := _column(group, c)) is not None}
    if "step" not in data:
        raise Malformed(f"/{name}/step is missing")
    # what a later version added is read for the checksum alone
    for n in (n for n in covered if n not in data):
        if not n or (column := hdf5.dataset(group, n, "fiuS", optional=True)) is None:
            raise Malformed(f"damaged: /{name}: no column {printable(n)!r}, of which it has checksums")
        data[n] = column
    columns = {n: _rows(column, lost) for n, column in (data | ({} if sums is None else {CRC: sums})).items()}
    length, short = min((len(c), n) for n, c in columns.items())
    if sums is not None and length < len(columns[CRC]) and lost is None:
        raise Malformed(f"damaged: /{name}/{short}: {length} rows, but {len(columns[CRC])} have checksums")
    columns = {n: c[:length] for n, c in columns.items()}
    known = {c.name: _as_declared(columns[c.name], c) for c in TABLES[name] if c.name in columns}
    bad, why = validation.wrong_rows(name, known, steps)
    if sums is not None:
        damaged = checksum.of_rows([columns[n] for n in covered]) != columns[CRC]
        if damaged.any():
            why = f"damaged: row {np.argmax(damaged)} of /{name}: its checksum is not that of its values"
        bad |= damaged
    if bad.any():
        if lost is None:
            raise Malformed(why)
        lost.append(f"/{name}: {bad.sum()} row(s), the first at step {known['step'][bad][0]}: {why}")
    return {n: _text(c[~bad]) if c.dtype.kind == "S" else c[~bad] for n, c in known.items()}


def _column(group: h5py.Group, column: Column) -> h5py.Dataset | None:
    kind = np.dtype(column.dtype).kind
    kinds, dimensions = "iu" if kind == "i" else kind, (1, 2) if column.each else (1,)
    return hdf5.dataset(group, column.name, kinds, dimensions, optional=True)


def _sums(group: h5py.Group) -> tuple[h5py.Dataset | None, list[str]]:
    """The checksums of a table's rows and the columns that they cover; none in a file of an older mpisign."""
    sums = hdf5.dataset(group, CRC, "u", (1,), optional=True)
    return sums, [] if sums is None else str(hdf5.attributes(sums).get("columns", "")).split(",")


def _as_declared(values: np.ndarray, column: Column) -> np.ndarray:
    """Values of a column in its own type; text as long as it is."""
    if values.dtype.kind == "S":
        return values
    if not np.can_cast(values.dtype, column.dtype, "safe"):
        raise Malformed(f"column {column.name}: {values.dtype} does not fit into {np.dtype(column.dtype)}")
    return values.astype(column.dtype, copy=False)


def _text(column: np.ndarray) -> np.ndarray:
    return np.array([value.decode(errors="replace") for value in column], dtype="U")


def _rows(data: h5py.Dataset, lost: list[str] | None) -> np.ndarray:
    """The rows of a column that the file has room for; with lost, those before the first that can't be read."""
    count = hdf5.whole_rows(data)
    hdf5.demand_room(data, count)
    if lost is None:
        return data[:count]
    if count < len(data):
        lost.append(f"{data.name}: rows from {count} on")
    blocks = [np.empty((0, *data.shape[1:]), data.dtype)]
    step = data.chunks[0] if data.chunks else max(count, 1)
    for lo in range(0, count, step):
        try:
            blocks.append(data[lo : min(lo + step, count)])
        except (OSError, RuntimeError):
            lost.append(f"{data.name}: rows from {lo} on")
            break
    return np.concatenate(blocks)
