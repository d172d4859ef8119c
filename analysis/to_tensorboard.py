"""Runs for TensorBoard (pip install 'mpisign[tensorboard]'): every column of /steps, /eval and /probes as a scalar, a
folder per run.

python analysis/to_tensorboard.py runs/ --logdir runs/tensorboard && tensorboard --logdir runs/tensorboard
"""

from pathlib import Path

import numpy as np
import script

from mpisign.errors import UsageError
from mpisign.storage.reader import Run

LEFT_OUT = ("step", "snr")  # the axis; and a histogram, which scalars do not tell
TABLES = ("steps", "eval", "probes")


def scalars(run: Run) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(steps, values) of each scalar by its tag, table/column, without what is not a number."""
    curves = {}
    for table in TABLES:
        columns = run.columns(table) if len(run[table]["step"]) else {}
        for name, column in columns.items():
            real = np.isfinite(column)
            if real.any() and name not in LEFT_OUT and name.rpartition("_")[0] not in LEFT_OUT:
                curves[f"{table}/{name}"] = columns["step"][real], column[real]
    return curves


def folders(runs: list[Run]) -> list[str]:
    """A folder of its own for each run: its file's name, and those of the folders above where several share it."""
    paths = [run.path.resolve().with_suffix("").parts for run in runs]
    names = []
    for path in paths:
        told = (k for k in range(1, len(path)) if all(p[-k:] != path[-k:] for p in paths if p != path))
        names.append("-".join(path[-next(told, len(path)) :]).replace("/", ""))
    return names


def export(run: Run, folder: Path) -> None:
    """Writes one run's event file; times are those of the run."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(f"TensorBoard is missing ({error}); pip install 'mpisign[tensorboard]'") from error
    began = float(run["events"]["time"][0]) if len(run["events"]["time"]) else 0.0
    took = dict(zip(run["eval"]["step"].tolist(), run["eval"]["seconds"].tolist(), strict=True))
    with SummaryWriter(str(folder)) as writer:
        for tag, (steps, values) in scalars(run).items():
            for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                writer.add_scalar(tag, value, step, walltime=began + took.get(step, 0.0))
        writer.add_text("job", f"```\n{run.config_text}\n```")


def main() -> None:
    options = script.parser(__doc__)
    options.add_argument("--logdir", type=Path, default=Path("runs/tensorboard"))
    with script.reading(options) as (runs, arguments):
        for run, name in zip(runs, folders(runs), strict=True):
            export(run, arguments.logdir / name)
        print(f"logdir: {arguments.logdir}")


if __name__ == "__main__":
    main()
