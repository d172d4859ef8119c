"""What trainers do with an optimiser, one library each: `mpirun -n 2 python -m tests.trainers LIBRARY FOLDER`.

A run of 8 steps is cut after 4, saved as the library does it, and goes on in objects made anew; root prints whether the
bits are those of a run that was not cut.
"""

import sys
from pathlib import Path

import mpisign

mpisign.hide_launcher()

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils.data import DataLoader, Dataset, Subset  # noqa: E402

from mpisign.optim import SignOptimizer  # noqa: E402

STEPS = 8


class Rows(Dataset):
    """Rows of this rank, drawn by their number."""

    def __init__(self, named: bool = False):
        self.named = named

    def __len__(self):
        return 16 * STEPS

    def __getitem__(self, k):
        drawn = torch.Generator().manual_seed(1000 * mpisign.rank() + k)
        inputs, labels = torch.randn(20, generator=drawn), torch.randint(3, (), generator=drawn)
        return {"inputs": inputs, "labels": labels} if self.named else (inputs, labels)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(20, 30), nn.Dropout(0.2), nn.ReLU(), nn.Linear(30, 3))

    def forward(self, inputs, labels=None):
        logits = self.net(inputs)
        return logits if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def schedule(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)


def transformers(folder: Path, resume: bool, factory: bool = False) -> SignOptimizer:
    """Trainer, which is given an optimiser, or makes one by a class and its arguments."""
    from transformers import Trainer, TrainingArguments

    steps = {"max_steps": STEPS, "save_steps": 4, "save_strategy": "steps"}
    shown = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "logging_strategy": "no"}
    arguments = TrainingArguments(str(folder), **steps, **shown, per_device_train_batch_size=16, seed=mpisign.rank())
    net = Net()
    if factory:
        made = {"optimizer_cls_and_kwargs": (SignOptimizer, {"algorithm": "signum-mv", "lr": 0.01, "model": net})}
    else:
        optimizer = SignOptimizer(net, "signum-mv", lr=0.01)
        made = {"optimizers": (optimizer, schedule(optimizer))}
    trainer = Trainer(net, arguments, train_dataset=Rows(named=True), **made)
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-4") if resume else None)
    return getattr(trainer.optimizer, "optimizer", trainer.optimizer)


def accelerate(folder: Path, resume: bool) -> SignOptimizer:
    """Accelerator, which accumulates gradients over two batches, clips them, and saves all that it prepared."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    net = Net()
    own = SignOptimizer(net, "signum-mv", lr=0.01)
    # a loader without a generator of its own would draw from that of dropout masks
    net, optimizer, loader, scheduler = accelerator.prepare(
        net, own, DataLoader(Rows(), 8, generator=torch.Generator()), schedule(own)
    )
    if resume:
        accelerator.load_state(folder / "half")
        loader = accelerator.skip_first_batches(loader, STEPS)
    for k, (inputs, labels) in enumerate(loader, STEPS if resume else 0):
        with accelerator.accumulate(net):
            accelerator.backward(net(inputs, labels)["loss"])
            accelerator.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if k == STEPS - 1:
            accelerator.save_state(folder / "half")
    return own


def lightning(folder: Path, resume: bool) -> SignOptimizer:
    """Lightning's Trainer, which calls step() with a closure; it keeps no generators, and resumes between epochs."""
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net().eval()  # no dropout

        def on_train_start(self):
            self.net.eval()

        def training_step(self, batch, index):
            return self.net(*batch)["loss"]

        def configure_optimizers(self):
            optimizer = SignOptimizer(self, "signum-mv", lr=0.01)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule(optimizer), "interval": "step"}}

    keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    shown = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    own = {"accelerator": "cpu", "devices": 1, "callbacks": [keep], "gradient_clip_val": 1.0}
    trainer = lightning.Trainer(max_steps=STEPS, **own, **shown)
    trainer.fit(
        Module(), DataLoader(Subset(Rows(), range(64)), 16), ckpt_path=folder / "step=4.ckpt" if resume else None
    )
    return trainer.optimizers[0]


def main(library: str, folder: Path) -> None:
    run = {
        "transformers": transformers,
        "transformers-factory": lambda *a: transformers(*a, factory=True),
        "accelerate": accelerate,
        "lightning": lightning,
    }[library]
    folder = folder / f"rank{mpisign.rank()}"
    found = [run(folder, resume) for resume in (False, True)]
    alike = torch.equal(found[0].gradients.x, found[1].gradients.x)
    steps = [optimizer.stepper.t for optimizer in found]
    if mpisign.rank() == 0:
        print("ranks:", mpisign.size(), "voters:", found[0].stepper.world.n, "steps:", *steps, "alike:", alike)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
