"""What runs left behind, for scripts and notebooks: run files, tables of many runs, and trained parameters.

    from mpisign.results import Run, frame, load_module

    run = Run("runs/digits-signum-mv-n8-seed1.h5")     # its tables as numpy columns; see Run
    frame("runs")                                      # a pandas.DataFrame with a row per run
    load_module(run.path)                              # a torch.nn.Module with the parameters that it kept

Reading needs neither torch nor MPI; load_module() and evaluate() import torch, and start no MPI.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mpisign.storage.frame import frame
from mpisign.storage.reader import Run, load_parameters, read_all

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Run", "evaluate", "frame", "load_module", "load_parameters", "read_all"]


def load_module(path: str | Path, which: str | None = None, settings: str | Sequence[str] = ()) -> "nn.Module":
    """The model of a run with the parameters that it kept, as a torch.nn.Module on the CPU, in eval mode.

    path: the run file; what was kept lies beside it, in NAME.model or, while the run is not complete, in its newest
    checkpoint. which: "last", "best" or "uniform"; by default the one that run.keep says, or the last one where a
    checkpoint has that one not yet. settings: one `table.key=value` or several, for data that lie elsewhere now, as in
    "problem.path=data/mnist".

    The module takes a batch of inputs as the problem reads them: digits float32 (b, 64); mnist and cifar uint8 (b,
    channels, height, width); hdf5 its x; text int64 (b, context). It returns logits, float32 (b, classes), of text (b,
    context, characters). Its parameters have the names that they have in the run file's /layout. The data are read, as
    they tell the sizes of the model.

    Raises UsageError where nothing was kept, with the setting that keeps it; where the data are missing, or make
    another model; and for a problem that is no torch module: of those, load_parameters() gives the arrays by name, such
    as the flat x, float32 (d,).
    """
    from mpisign.run import trained

    return trained.load_module(path, which, settings)


def evaluate(path: str | Path, which: str | None = None, settings: str | Sequence[str] = ()) -> dict[str, object]:
    """What `mpisign evaluate` prints: the figures of the point that a run kept, measured as the run measures.

    path, which, settings: as in load_module(); settings also run.device and run.threads. Returns train_loss, test_loss
    and test_accuracy (floats; NaN without held-out rows), and as text run_file, point and parameters, which say what
    was measured, and `recorded`, what the run itself told of that step. On the same kind of processor with the same
    torch the figures are those of the run, bit for bit, if no rank was lost. Raises UsageError as load_module() does,
    though any problem will do.
    """
    from mpisign.run import trained

    return trained.evaluate(path, which, settings)
