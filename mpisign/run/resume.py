"""How a run begins: anew, where it stopped, or at another run's x. Root decides, before anything is changed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mpisign import paths
from mpisign.config import Config, Setting, make, run_path
from mpisign.errors import UsageError, printable
from mpisign.parallel import launchers
from mpisign.storage import checkpoint, lock
from mpisign.storage.checkpoint import Checkpoint
from mpisign.storage.reader import Run, refuse_occupied
from mpisign.storage.schema import COUNTED

# what may change when a run goes on, as it moves no bit of x; the length of a run is always in its steps too
FREE = {
    "run": (
        *("file", "overwrite", "recorder", "max_minutes", "watchdog", "lost_ranks", "least_voters"),
        *("threads", "epochs", "evaluations", "log"),
    ),
    "exchange": ("name", "chunk", "progress", "gpu_aware"),
    "checkpoint": None,
    "probe": None,
}
BY_RANK = {"voter": "rank"}
MOVABLE = ("path", "test_path")  # of [problem]: where data lie, which may change if what is read there does not
# what else may change where the number of voters does
REGROUPED = {
    "run": ("voters",),
    "problem": ("batch_size", "batch_sizes", "global_batch_size"),
    "algorithm": ("weights",),
}


@dataclass(frozen=True)
class ResumeOptions:
    """What the user asked for.

    resume: "must" go on; go on if there is something to go on with ("auto"); or "never". checkpoint: to go on from,
    instead of the newest. init_from: a checkpoint to take x and the step from. ranks_changed: go on with another number
    of voters, too; see regroup.py.
    """

    resume: Literal["never", "auto", "must"] = "never"
    checkpoint: Path | None = None
    init_from: Path | None = None
    ranks_changed: bool = False


FRESH = ResumeOptions()


@dataclass(frozen=True)
class Start:
    """What will be done: kind, the checkpoint it needs, the run so far, and what the user should know.

    regrouped: what to tell where the checkpoint is of another number of voters.
    """

    kind: Literal["new", "resume", "init", "done"]
    opened: Checkpoint | None = None
    run: Run | None = None
    note: str = ""
    regrouped: str = ""

    @property
    def text(self) -> str:
        """For the run file: where this segment of the run comes from."""
        what = "x and the step from" if self.kind == "init" else "from"
        source = f"{what} {self.opened.path}" if self.opened else ""
        return "; ".join(part for part in (source, self.note) if part)

    def changes(self, segment: dict[str, object]) -> str:
        """What is not as it was in the segment before, of all that may change a bit."""
        before = self.run["segments"]
        names = (n for n in ("torch_build", "device", "threads") if str(before[n][-1]) != str(segment[n]))
        return ", ".join(f"{name} ({before[name][-1]} before)" for name in names)

    def rows(self) -> dict[str, dict[str, np.ndarray]]:
        """The tables of the run so far, up to the checkpoint's step; of events and segments all."""
        return rows_until(self.run, dict.fromkeys(COUNTED, self.opened.step))


def rows_until(run: Run, last: dict[str, int]) -> dict[str, dict[str, np.ndarray]]:
    """The tables of a run, those that a checkpoint counts up to the last steps given; of events and segments all."""
    tables = {}
    for table in (*COUNTED, "events", "segments"):
        columns = run[table]
        kept = columns["step"] <= last[table] if table in COUNTED else slice(None)
        tables[table] = {name: column[kept] for name, column in columns.items()}
    return tables


def stored_job(run: Run, settings: list[Setting], **values: object) -> Config:
    """The job of a run file, with settings laid over it. values: of [run], over all.

    The length of the run is in its steps, and its file is the one that was read, wherever it lay when it was written.
    Raises UsageError where they make no job.
    """
    tables = {name: dict(table) for name, table in run.config.items()}
    tables["run"] = {k: v for k, v in tables["run"].items() if k not in ("epochs", "evaluations")}
    problem = tables.get("problem", {})
    # as they were read once; a $ in them is one
    problem |= {key: paths.as_shell(problem[key]) for key in MOVABLE if isinstance(problem.get(key), str)}
    for table, key, value in settings:
        tables.setdefault(table, {})[key] = value
    tables["run"] |= {"file": paths.literal(run.path)} | values
    return make(tables, f"{run.path}: ", settings)


def may_regroup(options: ResumeOptions, config: Config) -> bool:
    """Whether a run may go on with another number of voters."""
    return options.ranks_changed or config.checkpoint.ranks_changed


def refuse_existing(config: Config, options: ResumeOptions) -> None:
    """Raises UsageError, on all ranks alike, if a new run of this job would find its file taken by another run.

    config: resolved, as what is wrong with a job is told first. Before MPI starts and data are read: a slip so frequent
    should not cost their seconds. Only what is certain is told here. A file that somebody writes just now, a run that
    never took a step, and ranks on several machines, of which some may not see the file, are left to whoever opens it;
    and so is a job whose GPU, data or checkpoint may be missing, which is told before it.
    """
    path, problem = run_path(config, config.run.voters), config.problem.arguments
    needed = [Path(file) for file in (options.init_from, *(problem.get(key) for key in MOVABLE)) if file]
    if options.resume != "never" or config.run.device == "cuda" or not all(file.exists() for file in needed):
        return
    if path.exists() and not (config.run.overwrite or lock.held(path)) and launchers.one_machine():
        refuse_occupied(path)


def decide(options: ResumeOptions, path: Path, config: Config, data: str = "") -> Start:
    """How the run at this path begins. config: every default filled in. data: fingerprint of the rows, if taken.

    Where the run had another number of voters, the fingerprint is that of the rows as they were dealt to those.
    Raises UsageError where it can't go on: no run, another job, other data, no whole checkpoint.
    """
    if options.resume == "never" or (options.resume == "auto" and not path.exists()):
        return _anew(options, path, config)
    run = so_far(path)
    before, n = str(run.attributes.get("data", "")), int(run.attributes["n"])
    if changed := n != config.run.voters:
        _check_regrouping(options, path, config, n)
    if before and data and before != data:
        raise UsageError(
            f"{path} began with other data: the rows that are read now are not those of then; give the data of then, "
            "as by --set problem.path=..., or start a new run (train --init-from takes x along)"
        )
    if other := differences(run.config, config.written, bool(before and before == data), changed):
        raise UsageError(
            f"{path} is a run of another job: {'; '.join(other[:3])}; set run.file=... to write another, "
            "or --overwrite without --resume to replace it"
        )
    if run.complete:
        return Start("done", run=run, note=f"{path} is complete: there is nothing to go on with")
    if options.checkpoint:
        return Start("resume", open_checkpoint(options.checkpoint, run), run)
    files = checkpoint.saved(path)
    if not files and options.resume == "auto":
        return _anew(options, path, config, run, f"{path} stopped before its first checkpoint: it starts anew")
    if not files:
        raise UsageError(
            f"no checkpoint in {checkpoint.folder(path)}: this run can't go on; start it anew with "
            "mpisign train --overwrite, and see [checkpoint]"
        )
    return _newest(options, files, run)


def _check_regrouping(options: ResumeOptions, path: Path, config: Config, before: int) -> None:
    """Raises UsageError where a run may not go on with other voters, or its job says what is of one number of them."""
    if not may_regroup(options, config):
        raise another_number(path, before, config.run.voters, config.ranks_per_voter)
    why = ""
    if liars := config.adversary.voters:
        why = f"[adversary] has {liars} of {before} voters lie, which would be another share"
    elif config.run.preset == "theory":
        why = f'run.preset = "theory" chose rate and hyperparameters by formulas for {before} voters'
    elif config.ranks_per_voter > 1:
        why = f"a voter is {config.ranks_per_voter} ranks (exchange.voter), each with a part of what it keeps"
    if why:
        raise UsageError(f"{path} can't go on with {config.run.voters} voters after {before}: {why}; start {before}")


def another_number(path: Path, before: int, now: int, each: int = 1) -> UsageError:
    """The error of a run that would go on with another number of voters, though nobody asked for that.

    each: ranks of a voter.
    """
    if each > 1:
        return UsageError(
            f"{path} has {before} voters of {each} ranks, but there are {now} of them; start {before * each} ranks"
        )
    return UsageError(
        f"run.voters = {before} in {path}, but there are {now} rank(s); start as many as it had, or go on with {now}: "
        f"mpisign resume {path} --ranks-changed (in a job, checkpoint.ranks_changed = true)"
    )


def so_far(path: Path) -> Run:
    """The run so far. Of the tables that a checkpoint counts, rows that are lost may be those after it."""
    run = Run(path, salvage=True)
    if lost := [what for what in run.lost if not what.startswith(tuple(f"/{table}" for table in COUNTED))]:
        raise UsageError(f"{path}: {lost[0]}; mpisign repair {path} --output FILE saves what can be read")
    return run


def _anew(options: ResumeOptions, path: Path, config: Config, run: Run | None = None, note: str = "") -> Start:
    """A new run, from its own beginning or from another's x. Checkpoints of an older run would be taken for its own."""
    if checkpoint.saved(path) and not config.run.overwrite:
        raise UsageError(
            f"{checkpoint.folder(path)} holds checkpoints of an older run; move them away, set run.file=... to write "
            "another run, or run.overwrite=true (or --overwrite) to replace both"
        )
    if options.init_from:
        return Start("init", Checkpoint(options.init_from), run, note)
    return Start("new", run=run, note=note)


def differences(
    stored: dict[str, dict], wanted: dict[str, dict], moved: bool = False, regrouped: bool = False
) -> list[str]:
    """What two jobs, with every default written out, do not share, leaving aside what moves no bit of x.

    moved: whether their data are the same, wherever they lie. regrouped: whether their voters are others.
    """
    differing, by_node = [], wanted.get("exchange", {}).get("voter") == "node"
    for table in dict.fromkeys((*stored, *wanted)):
        one, other, free = stored.get(table, {}), wanted.get(table, {}), FREE.get(table, ())
        if table == "exchange":
            # jobs of an older mpisign don't say; ranks of a node are of importance where they are a voter
            one, other, free = BY_RANK | one, BY_RANK | other, free if by_node else (*free, "node_size")
        if moved and table == "problem":
            free = (*free, *MOVABLE)
        if regrouped and table in REGROUPED:
            free = (*free, *REGROUPED[table])
        for key in dict.fromkeys((*one, *other)) if free is not None else ():
            if key not in free and one.get(key) != other.get(key):
                values = f"{one.get(key, 'unset')!r} there and {other.get(key, 'unset')!r} here"
                differing.append(f"{table}.{key} = {values}")
    return differing


def _newest(options: ResumeOptions, files: list[Path], run: Run) -> Start:
    refused = []
    for file in files:
        try:
            return Start("resume", open_checkpoint(file, run), run, "; ".join(refused))
        except UsageError as error:
            refused.append(str(error))
            if options.resume == "must":
                break
    before = next((f for f in files[len(refused) :] if _whole(f, run)), None)
    remedy = "no other checkpoint of this run can be used; start it anew with mpisign train --overwrite"
    if before:
        remedy = f"go on from the one before it: mpisign resume {run.path} --from {before}"
    raise UsageError(f"{refused[0]}; {remedy}")


def open_checkpoint(file: Path, run: Run) -> Checkpoint:
    """A checkpoint that belongs to a run file; raises UsageError if it does not, or is damaged."""
    opened = Checkpoint(file)
    try:
        _check_belongs(opened, run)
    except UsageError:
        opened.close()
        raise
    return opened


def _check_belongs(opened: Checkpoint, run: Run) -> None:
    data = run.attributes.get("data", "")
    moved = bool(data) and opened.progress.get("data") == data
    # a run that went on with other voters may have stopped before it saved them
    if other := differences(run.config, opened.config, moved, opened.attributes["n"] != run.attributes["n"]):
        raise UsageError(f"{opened.path} is a checkpoint of another job than {run.path}: {'; '.join(other[:3])}")
    if "rows" not in opened.progress:
        raise UsageError(f"{opened.path}: a checkpoint of an optimiser in a script, not of a run")
    for table, count in opened.progress["rows"].items():
        if table not in COUNTED:
            raise UsageError(f"{opened.path}: counts rows of /{printable(table)}, which no run file has")
        rows = int((run[table]["step"] <= opened.step).sum())
        if rows != count:
            known = f"{run.path} has {rows} rows of /{table} up to step {opened.step}"
            raise UsageError(f"{opened.path}: {known}, not {count}")


def _whole(file: Path, run: Run) -> bool:
    try:
        with open_checkpoint(file, run):
            return True
    except UsageError:
        return False
