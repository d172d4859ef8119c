"""`cifar10`: the binary batches of CIFAR-10, with a convolutional network."""

import gzip
import lzma
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.func import functional_call

from mpisign.errors import UsageError, choices
from mpisign.problems.base import Problem, Rows, Tables
from mpisign.problems.models import MODELS

CLASSES, RECORD = 10, 3073  # a label, then 1024 bytes each of red, green and blue
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the training images' channels
OPENERS = {"": open, ".gz": gzip.open, ".xz": lzma.open}


class Cifar10(Problem):
    """Cross-entropy of a model on the files data_batch_N.bin and test_batch.bin (plain, .gz or .xz) in the folder path.

    model: see models.MODELS. augment: training images are shifted by up to 4 pixels and mirrored, by draws of the run.
    test: stems of the files that are held out; without test_batch, a training batch will do. BatchNorm's running
    statistics are each voter's own.
    """

    offers = frozenset({"finite sum", "two points", "function values"})

    def __init__(
        self,
        path: str,
        model: str = "resnet18",
        augment: bool = True,
        test: list[str] = ["test_batch"],  # noqa: B006
    ):
        if model not in MODELS:
            raise UsageError(f"problem.model = {model!r}: known: {choices(MODELS)}")
        self.path, self.augment, self.held_out = Path(path), augment, tuple(test)
        self._model = MODELS[model](CLASSES)
        self._buffers = {k: b for k, b in self._model.named_buffers() if b.is_floating_point()}
        self.coordinates = sum(p.numel() for p in self._model.parameters())

    def read(self):
        stems = [f"data_batch_{k}" for k in range(1, 6) if f"data_batch_{k}" not in self.held_out]
        train = [read_batch(file) for stem in stems if (file := _find(self.path, stem))]
        test = [read_batch(file) for stem in self.held_out if (file := _find(self.path, stem))]
        if not train:
            raise UsageError(f"no data_batch_N.bin (or .gz, .xz) in {self.path}; set problem.path to their folder")
        if len(test) < len(self.held_out):
            raise UsageError(
                f"not all of {choices(self.held_out)} in {self.path}; set problem.test to the batches that are held out"
            )
        rows = [
            Rows(**{k: np.concatenate([b[k] for b in part]) for k in ("inputs", "labels")}) for part in (train, test)
        ]
        return Tables(*rows, classes=rows[0]["labels"])

    def initial(self, generator):
        # each layer starts as torch has it, from the run's own stream
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator.integers(2**63)))
            for module in self._model.modules():
                if reset := getattr(module, "reset_parameters", None):
                    reset()
        return {name: p.detach().clone() for name, p in self._model.named_parameters()}

    def statistics(self):
        return {name: b.clone() for name, b in self._buffers.items()}

    def loss(self, parameters, batch):
        self._model.train()
        inputs = _normal(_augmented(batch["inputs"]) if self.augment else batch["inputs"])
        return F.cross_entropy(functional_call(self._model, dict(parameters), inputs), batch["labels"])

    def measure(self, parameters, rows):
        self._model.eval()
        loss, correct = 0.0, 0
        with torch.no_grad():
            for lo in range(0, rows.count, 256):
                part = rows.take(slice(lo, lo + 256))
                logits = functional_call(self._model, dict(parameters), _normal(part["inputs"]))
                loss += float(F.cross_entropy(logits, part["labels"], reduction="sum"))
                correct += int((logits.argmax(dim=1) == part["labels"]).sum())
        return {"loss": loss, "correct": correct, "rows": rows.count}


def _normal(images):
    """Bytes (b, 3, 32, 32) as float32 of mean 0 and deviation 1 in each channel."""
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, DEVIATION))
    return (images.float() / 255 - mean) / deviation


def _augmented(images):
    """Every image shifted by up to 4 pixels, black coming in, and mirrored or not: by torch's generator."""
    count = len(images)
    padded = F.pad(images, (4, 4, 4, 4))
    down, right = torch.randint(9, (2, count, 1))
    rows, columns = (torch.arange(32) + shift for shift in (down, right))
    mirrored = torch.rand(count, 1) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    places = torch.arange(count).view(-1, 1, 1)
    return padded[places, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _find(folder: Path, stem: str) -> Path | None:
    return next((f for ending in OPENERS if (f := folder / f"{stem}.bin{ending}").is_file()), None)


def read_batch(file: Path) -> Rows:
    """Rows (inputs uint8 (b, 3, 32, 32), labels int64) of a binary batch of any number of records.

    Raises UsageError if it is none.
    """
    try:
        with OPENERS[file.suffix if file.suffix in OPENERS else ""](file, "rb") as opened:
            data = np.frombuffer(opened.read(), dtype=np.uint8)
    except (OSError, EOFError, lzma.LZMAError, gzip.zlib.error) as error:
        raise UsageError(f"{file}: can't be read or decompressed ({error}); fetch it anew") from error
    if not len(data) or len(data) % RECORD:
        raise UsageError(f"{file}: {len(data)} bytes, which are no whole records of {RECORD}; fetch it anew")
    records = data.reshape(-1, RECORD)
    if records[:, 0].max() >= CLASSES:
        raise UsageError(f"{file}: a label of {records[:, 0].max()}, but CIFAR-10 has 0 to 9; it is another file")
    return Rows(inputs=records[:, 1:].reshape(-1, 3, 32, 32).copy(), labels=records[:, 0].astype(np.int64))
