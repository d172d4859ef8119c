"""A perceptron on the digits of scikit-learn, in a loop of Hugging Face's Accelerate, with votes of all ranks.

mpirun -n 4 python jobs/trainers/accelerated.py [--epochs 20]
"""

import argparse

import mpisign

mpisign.hide_launcher()  # before accelerate: to it, each rank is alone

import torch  # noqa: E402
from accelerate import Accelerator  # noqa: E402
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()

    accelerator = Accelerator(cpu=not torch.cuda.is_available(), gradient_accumulation_steps=2)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    train, held_out = digits()
    loader = DataLoader(train, 16, shuffle=True, generator=torch.Generator().manual_seed(mpisign.rank()))
    optimizer = SignOptimizer(model.to(accelerator.device), "signum-mv", lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * -(-len(loader) // 2))
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    for _ in range(options.epochs):
        for inputs, labels in loader:
            with accelerator.accumulate(model):
                accelerator.backward(F.cross_entropy(model(inputs), labels))
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    inputs, labels = (part.to(accelerator.device) for part in held_out.tensors)
    right = (model(inputs).argmax(1) == labels).float().mean()
    if mpisign.rank() == 0:
        print(f"right: {right:.4f}")


if __name__ == "__main__":
    main()
