"""A tutorial in cells: makes two short runs, reads one, compares both, looks into their votes, takes the model out.

.venv/bin/python analysis/tutorial.py

Editors that know the marks # %% run it cell by cell, like a notebook. Runs and pictures go to runs/tutorial.
"""

# %% [markdown]
# ## Two runs
# Five voters, each of which owns digits of two classes only, train a perceptron: once by a majority vote on the signs
# of their momenta (`signum-mv`), once with error feedback, by which a voter remembers what its signs left out
# (`dist-ef-signsgd`). Either sends one bit per coordinate each way. `simulate` runs all voters in one process, with the
# bits of `mpirun -n 5 mpisign train`; probes measure, every 25 steps, how right the signs are.

# %%
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from mpisign.problems.digits import Digits
from mpisign.results import Run, load_module

FOLDER = Path("runs/tutorial")
JOB = ("run.steps=300", "run.eval_every=20", "partition.kind=labels", "partition.labels=2", "probe.every=25")


def simulate(name: str, lr: float) -> Run:
    """The run of a method with this learning rate, made if it is not there."""
    settings = [*JOB, f"algorithm.name={name}", f"schedule.lr={lr}", f"run.file={FOLDER / name}.h5"]
    flags = [part for setting in settings for part in ("--set", setting)]
    subprocess.run([sys.executable, "-m", "mpisign", "simulate", "-n", "5", "--resume", "auto", *flags], check=True)
    return Run(FOLDER / f"{name}.h5")


vote, feedback = runs = [simulate("signum-mv", 0.001), simulate("dist-ef-signsgd", 0.1)]

# %% [markdown]
# ## Read a run
# A run file holds the job with every default, the machine, what each voter owned, and tables that are read as columns
# of numpy. `mpisign show FILE` prints the same.

# %%
print(vote)
print("classes of each voter:", [np.flatnonzero(row).tolist() for row in vote.partition["class_counts"]])
print("learning rate:", vote.config["schedule"]["lr"])
print("columns of /steps:", ", ".join(vote["steps"]))

# %% [markdown]
# ## Compare two
# The same accuracy against steps, and against what a rank sent and received by the method's definition.

# %%
for run in runs:
    accuracy, loss = (run["eval"][name][-1] for name in ("test_accuracy", "train_loss"))
    name, bits = run.attributes["algorithm"], run.bits_per_coordinate
    print(f"{name:16} accuracy {accuracy:.4f}  loss {loss:.4f}  {bits:.2f} bits per coordinate")

figure, (steps, sent) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", sharey=True)
for run in runs:
    evals = run["eval"]
    steps.plot(evals["step"], evals["test_accuracy"], label=run.attributes["algorithm"])
    sent.plot(run.method_bytes("eval") / 1e6, evals["test_accuracy"])
steps.set(xlabel="steps", ylabel="held-out accuracy")
sent.set(xlabel="MB sent and received per rank")
steps.legend(frameon=False)
figure.savefig(FOLDER / "compared.png", dpi=130)

# %% [markdown]
# ## Look into the votes
# Above: how much the voters agree, |tally| / n averaged over coordinates (with five voters at least 0.2), and how many
# decided signs are those of the exact gradient, beside those of single voters. Below: how often each voter sent what
# was decided. With error feedback a vote is also about what earlier signs left out: less often right about the gradient
# of the moment, and yet the better guide.

# %%
figure, panels = plt.subplots(2, 2, figsize=(8, 5.5), layout="constrained", height_ratios=(3, 2))
agreement, success = panels[0]
for run, colour in zip(runs, ("C0", "C1"), strict=True):
    name, probes = run.attributes["algorithm"], run["probes"]
    agreement.plot(run["steps"]["step"], run["steps"]["agreement"], colour, linewidth=0.9)
    success.plot(probes["step"], probes["success_vote"], colour, label=f"{name}: the vote")
    success.plot(probes["step"], probes["success"], colour, linestyle="--", label=f"{name}: a voter, on average")
agreement.set(xlabel="steps", ylabel="agreement")
success.set(xlabel="steps", ylabel="share of signs that are right")
for panel, run in zip(panels[1], runs, strict=True):
    probes = run["probes"]
    voters = np.arange(probes["voter_agreement"].shape[1])
    image = panel.pcolormesh(probes["step"], voters, probes["voter_agreement"].T, cmap="cividis", vmin=0.5, vmax=0.8)
    panel.set(xlabel="steps", ylabel="voter", yticks=voters, title=run.attributes["algorithm"])
figure.colorbar(image, ax=panels[1], label="share sent as decided")
figure.legend(*success.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
figure.savefig(FOLDER / "votes.png", dpi=130)

# %% [markdown]
# ## Take the model out
# What a run kept (`run.keep`, by default its last point) becomes a torch module, here measured by hand on the rows that
# were held out. `mpisign evaluate FILE` measures as the run did.

# %%
held_out = Digits().read().test
with torch.no_grad():
    logits = load_module(feedback.path)(torch.from_numpy(held_out["inputs"]))
right = (logits.argmax(dim=1).numpy() == held_out["labels"]).mean()
print(f"module: {right:.6f} of {held_out.count} rows, in the run file {feedback['eval']['test_accuracy'][-1]:.6f}")
