"""Going on with another number of voters: what of the job follows the run so far, and what can't go on.

`mpisign resume RUN --ranks-changed`, or checkpoint.ranks_changed in the job. engine/regroup.py has what happens to the
arrays. The job is kept as it is: its steps and schedule; problem.global_batch_size where it states one, else the
batch of each rank; and the rule by which rows are dealt, to as many voters as there are now. The batch of step t is
that of a run which had so many voters from its start: a pass over the rows begins nowhere in particular.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from mpisign.algorithms.method import Method
from mpisign.config import Config, run_path
from mpisign.engine.regroup import Regrouped, bound, owes, places
from mpisign.engine.stepper import Stepper
from mpisign.errors import UsageError
from mpisign.parallel.mpi import Ranks
from mpisign.run.plan import Plan, resolve
from mpisign.run.resume import ResumeOptions, may_regroup, so_far
from mpisign.storage.checkpoint import Checkpoint


def continued(plan: Plan, config: Config, ranks: Ranks, voters: int, options: ResumeOptions) -> Plan:
    """The plan of a job whose run had another number of voters so far, if it had; else as it is. Collective.

    config: that of the plan, not resolved yet. What it leaves open stays as the run has it: its length, and the rules
    for sign(0) and ties, of which one voter has others than several.
    """
    found: dict[str, Any] = {}
    with ranks.agreed():
        if ranks.root and options.resume != "never" and may_regroup(options, config):
            path = run_path(plan.config, voters)
            found = _run_so_far(path, config) if path.exists() else {}
    found = ranks.share(found)
    if found.get("n", voters) == voters:
        return plan
    with ranks.agreed():
        plan = resolve(config.updated(**found["tables"]), voters, plan.config.ranks_per_voter)
    return replace(plan, before=found["n"])


def _run_so_far(path: Path, config: Config) -> dict[str, Any]:
    run = so_far(path)
    stored = run.config
    algorithm = {
        rule: stored["algorithm"].get(rule, "auto")
        for rule in ("zeros", "ties")
        if getattr(config.algorithm, rule) == "auto"
    }
    tables: dict[str, dict[str, Any]] = {"algorithm": algorithm}
    # so many epochs are another number of steps by now; other epochs are another job
    lengths = {name: getattr(config.run, name) for name in ("epochs", "evaluations")}
    if not config.run.steps and all(stored["run"].get(name, value) == value for name, value in lengths.items()):
        tables["run"] = {"steps": stored["run"]["steps"]}
    return {"n": run.attributes["n"], "tables": tables}


def taken_up(opened: Checkpoint, stepper: Stepper, config: Config, options: ResumeOptions) -> Checkpoint | Regrouped:
    """A checkpoint as the voters of a Stepper read it, who may be others: in number, or as some were lost before.

    Raises UsageError, with the checkpoint closed, where that was not asked for, or can't be.
    """
    before, n = int(opened.attributes["n"]), stepper.world.n
    there = opened.voters
    if before == n == len(there):
        return opened
    try:
        if before != n and not may_regroup(options, config):
            raise UsageError(
                f"{opened.path}: a checkpoint of {before} voters, but this job has {n}, each with its own state; "
                f"start {before}, or go on with {n}: mpisign resume RUN --ranks-changed"
            )
        if why := bound(stepper.algorithm, before, n):
            raise UsageError(
                f"{opened.path}: {config.algorithm.name} can't go on with {n} voters after {len(there)}: {why}; start "
                f"{before}, or a new run from its x: mpisign train --init-from {opened.path}"
            )
    except UsageError:
        opened.close()
        raise
    return Regrouped(opened, stepper, config.checkpoint.residuals == "keep")


def told(before: list[int], config: Config, algorithm: Method) -> str:
    """For the run file: what has changed. before: the voters so far."""
    sizes, whole = config.problem.batch_sizes, config.problem.global_batch_size
    size = f"{sizes} rows, by voter" if sizes else f"{config.problem.batch_size or 'all its'} rows per voter"
    batches = f"batches of {size}" + (f", {whole} of all together" if whole else "")
    kept = "their mean kept" if config.checkpoint.residuals == "keep" else "those of leavers dropped"
    now, taken = config.run.voters, places(before, config.run.voters)
    moved = [f"{voter} goes on as {place}" for place, voter in taken.items() if place != voter]
    new = [str(voter) for voter in range(now) if voter not in taken]
    gone = [str(voter) for voter in before if voter not in taken.values()]
    changes = [*moved, *(f"{what}: {', '.join(of)}" for what, of in (("leave", gone), ("new", new)) if of)]
    residuals = [f"residuals: {kept}"] if owes(algorithm) else []
    return "; ".join([f"from {len(before)} to {now} voters", *changes, *residuals, "rows dealt anew", batches])
