"""A character model of Hugging Face's transformers, trained by its Trainer, with votes of all ranks.

mpirun -n 4 python jobs/trainers/huggingface.py [--steps 100]
"""

import argparse
import tempfile

import mpisign

mpisign.hide_launcher()  # before transformers: to its Trainer, each rank is alone

import torch  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed  # noqa: E402

from mpisign.optim import SignOptimizer  # noqa: E402

LENGTH = 64


def windows() -> tuple[int, torch.Tensor, torch.Tensor]:
    """How many characters there are, and windows (count, LENGTH) of the language reference: this rank's, held out."""
    from pydoc_data.topics import topics

    text = "\n".join(topics.values())
    number = {c: k for k, c in enumerate(sorted(set(text)))}
    rows = torch.tensor([number[c] for c in text[: len(text) // LENGTH * LENGTH]]).view(-1, LENGTH)
    return len(number), rows[200 + mpisign.rank() :: mpisign.size()], rows[:200]


def samples(rows: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": row, "labels": row} for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--folder", help="of this run's checkpoints; a temporary one by default")
    options = parser.parse_args()

    characters, rows, held_out = windows()
    set_seed(1)
    sizes = {"n_positions": LENGTH, "n_embd": 64, "n_layer": 2, "n_head": 4}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=characters, bos_token_id=0, eos_token_id=0, **sizes))
    optimizer = SignOptimizer(model, "signum-mv", lr=1e-3, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    with tempfile.TemporaryDirectory() as temporary:
        arguments = TrainingArguments(
            f"{options.folder or temporary}/rank{mpisign.rank()}",
            max_steps=options.steps,
            per_device_train_batch_size=8,
            logging_strategy="no",
            save_strategy="steps" if options.folder else "no",
            save_steps=options.steps // 2,
            seed=mpisign.rank(),
            report_to=[],
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = Trainer(model, arguments, train_dataset=samples(rows), optimizers=(optimizer, scheduler))
        trainer.train()
        loss = trainer.evaluate(samples(held_out))["eval_loss"]
    if mpisign.rank() == 0:
        print(f"held out: {loss:.4f}")


if __name__ == "__main__":
    main()
