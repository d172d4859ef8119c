"""A perceptron on the digits of scikit-learn, trained by Lightning, with votes of all ranks.

mpirun -n 4 python jobs/trainers/lightning_module.py [--epochs 20]
"""

import argparse

import mpisign

mpisign.hide_launcher()  # before lightning: to its Trainer, each rank is alone

import lightning  # noqa: E402
import torch  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from mpisign.optim import SignOptimizer  # noqa: E402


def digits() -> tuple[TensorDataset, TensorDataset]:
    """This rank's rows, as many on every rank, and those that are held out."""
    inputs, labels = load_digits(return_X_y=True)
    inputs, labels = torch.tensor(inputs / 16, dtype=torch.float32), torch.tensor(labels)
    count = (len(labels) - 360) // mpisign.size()
    own = slice(360 + mpisign.rank() * count, 360 + (mpisign.rank() + 1) * count)
    return TensorDataset(inputs[own], labels[own]), TensorDataset(inputs[:360], labels[:360])


class Perceptron(lightning.LightningModule):
    """One hidden layer, whose rate falls by a cosine."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch, index):
        inputs, labels = batch
        return F.cross_entropy(self.net(inputs), labels)

    def test_step(self, batch, index):
        inputs, labels = batch
        self.log("right", (self.net(inputs).argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        optimizer = SignOptimizer(self, "signum-mv", lr=3e-3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()

    train, held_out = digits()
    loader = DataLoader(train, 32, shuffle=True, generator=torch.Generator().manual_seed(mpisign.rank()))
    torch.manual_seed(1)
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        devices=1,
        accelerator="auto",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Perceptron(options.epochs * len(loader))
    trainer.fit(model, loader)
    (found,) = trainer.test(model, DataLoader(held_out, 360), verbose=False)
    if mpisign.rank() == 0:
        print(f"right: {found['right']:.4f}")


if __name__ == "__main__":
    main()
