"""Runs for a tracker of others: columns of /steps, /eval and /probes as metrics, the job as settings, one run for each.

python analysis/to_tracker.py runs/ --to tensorboard && tensorboard --logdir runs/tensorboard
python analysis/to_tracker.py runs/ --to wandb && wandb sync runs/wandb/wandb/offline-run-*
python analysis/to_tracker.py runs/ --to mlflow && mlflow ui --backend-store-uri sqlite:///runs/mlflow/mlflow.db
python analysis/to_tracker.py runs/ --to trackio && TRACKIO_DIR=runs/trackio trackio show

All of it is written into a folder of this machine; nothing is sent. Each call adds to the folder: runs that are there
already will be there twice, so remove it, or give another --folder. The trackers: pip install 'mpisign[trackers]'.
"""

import importlib
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import script

from mpisign.errors import UsageError
from mpisign.storage.reader import Run

PROJECT = "mpisign"
LEFT_OUT = ("step", "snr")  # the axis; and a histogram, which scalars do not tell
TABLES = ("steps", "eval", "probes")
BATCH = 1000  # metrics that mlflow takes at once
LONGEST = 500  # letters of a setting that mlflow keeps whole
STATUS = {"complete": "FINISHED", "error": "FAILED", "stopped": "KILLED", "killed": "KILLED"}  # mlflow's words


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


def by_step(run: Run) -> dict[int, dict[str, float]]:
    """The values of all scalars at each step, in the order of steps."""
    rows: dict[int, dict[str, float]] = defaultdict(dict)
    for tag, (steps, values) in scalars(run).items():
        for step, value in zip(steps.tolist(), values.tolist(), strict=True):
            rows[step][tag] = value
    return dict(sorted(rows.items()))


def times(run: Run) -> Callable[[int], float]:
    """When a step was taken, in seconds since 1970: as rows of /steps and /eval tell, and evenly in between."""
    began = float(run["events"]["time"][0]) if len(run["events"]["time"]) else 0.0
    steps, seconds = (np.concatenate([run["steps"][name], run["eval"][name], [0]]) for name in ("step", "seconds"))
    steps, first = np.unique(steps, return_index=True)
    return lambda step: began + float(np.interp(step, steps, seconds[first]))


def names(runs: list[Run]) -> list[str]:
    """A name of its own for each run: its file's, and those of the folders above where several share it."""
    paths = [run.path.resolve().with_suffix("").parts for run in runs]
    found = []
    for path in paths:
        told = (k for k in range(1, len(path)) if all(p[-k:] != path[-k:] for p in paths if p != path))
        found.append("-".join(path[-next(told, len(path)) :]).replace("/", ""))
    return found


def tracker(module: str) -> ModuleType:
    """The package of a tracker; raises UsageError where it can't be imported."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{module} can't be imported ({error}); pip install 'mpisign[trackers]'") from error


def to_tensorboard(run: Run, name: str, folder: Path) -> None:
    """An event file in a folder of the run's name; times are those of the run."""
    tracker("tensorboard")
    writing, when = tracker("torch.utils.tensorboard"), times(run)
    with writing.SummaryWriter(str(folder / name)) as writer:
        for tag, (steps, values) in scalars(run).items():
            for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                writer.add_scalar(tag, value, step, walltime=when(step))
        writer.add_text("job", f"```\n{run.config_text}\n```")


def to_wandb(run: Run, name: str, folder: Path) -> None:
    """An offline run of Weights & Biases, which `wandb sync` sends where one wants it."""
    wandb = tracker("wandb")
    folder.mkdir(parents=True, exist_ok=True)
    quiet = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True)
    place = {"project": PROJECT, "name": name, "dir": str(folder), "mode": "offline"}
    with wandb.init(**place, config=run.settings, settings=quiet) as writer:
        for step, values in by_step(run).items():
            writer.log(values, step=step)


def to_mlflow(run: Run, name: str, folder: Path) -> None:
    """A run of the experiment mpisign in a data base in the folder; times are those of the run."""
    mlflow, when = tracker("mlflow"), times(run)
    folder.mkdir(parents=True, exist_ok=True)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{(folder / 'mlflow.db').resolve()}")
    found = client.get_experiment_by_name(PROJECT)
    experiment = found.experiment_id if found else client.create_experiment(PROJECT)
    written = client.create_run(experiment, start_time=round(1000 * when(0)), run_name=name).info.run_id
    params = [mlflow.entities.Param(key, str(value)[:LONGEST]) for key, value in run.settings.items()]
    client.log_batch(written, params=params)
    metrics = [
        mlflow.entities.Metric(tag, value, round(1000 * when(step)), step)
        for step, values in by_step(run).items()
        for tag, value in values.items()
    ]
    for lo in range(0, len(metrics), BATCH):
        client.log_batch(written, metrics=metrics[lo : lo + BATCH])
    if run.state in STATUS:  # else it goes on
        ended = when(int(run["steps"]["step"].max(initial=0)))
        client.set_terminated(written, STATUS[run.state], end_time=round(1000 * ended))


def to_trackio(run: Run, name: str, folder: Path) -> None:
    """A run of the project mpisign in the folder, which trackio knows by TRACKIO_DIR."""
    # read when it is imported; other variables of its name would have it send what it is given
    for variable in [name for name in os.environ if name.startswith("TRACKIO_")]:
        del os.environ[variable]
    os.environ["TRACKIO_DIR"] = str(folder.resolve())
    trackio = tracker("trackio")
    quiet = {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
    trackio.init(project=PROJECT, name=name, config=run.settings, **quiet)
    for step, values in by_step(run).items():
        trackio.log(values, step=step)
    trackio.finish()


TRACKERS = {"tensorboard": to_tensorboard, "wandb": to_wandb, "mlflow": to_mlflow, "trackio": to_trackio}


def main() -> None:
    options = script.parser(__doc__)
    options.add_argument("--to", choices=TRACKERS, required=True, help="the tracker")
    options.add_argument("--folder", type=Path, help="where it is written; runs/TRACKER by default")
    with script.reading(options) as (runs, arguments):
        folder = arguments.folder or Path("runs") / arguments.to
        for run, name in zip(runs, names(runs), strict=True):
            TRACKERS[arguments.to](run, name, folder)
        print(f"folder: {folder}")


if __name__ == "__main__":
    main()
