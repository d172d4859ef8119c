"""The tables of a job as frozen models. [problem] and [algorithm] also take the arguments of what they name."""

from pathlib import PurePath
from typing import Annotated, Any, Literal

import pydantic
import tomli_w
from pydantic import Field

LONGEST = 10**15  # steps or gradients of a run: counters are exact up to there


class Table(pydantic.BaseModel):
    """One table of a job file."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class OpenTable(Table):
    """A table that also holds the arguments of what its `name` names."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class Run(Table):
    """[run]: how long, from which seed, on what, into which file, and how often something is recorded."""

    steps: int | None = Field(None, ge=1, le=LONGEST)
    epochs: float | None = Field(None, gt=0, le=LONGEST / 1000)
    evaluations: int | None = Field(None, ge=1, le=LONGEST)
    voters: int = Field(0, ge=0)
    preset: Literal["none", "theory"] = "none"
    seed: int = Field(1, ge=0, lt=2**64)
    file: str = "runs/{problem}-{algorithm}-n{n}-seed{seed}.h5"
    overwrite: bool = False
    keep: Literal["none", "last", "best", "uniform"] = "last"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False
    threads: int = Field(0, ge=0, le=1024)
    objective: Literal["ranks", "rows"] = "ranks"
    record_every: int = Field(10, ge=1)
    check_every: int = Field(100, ge=1)
    eval_every: int = Field(0, ge=0)
    exact_gradient: bool = False
    trace: bool = False
    recorder: Literal["auto", "swmr", "rewrite"] = "auto"
    max_minutes: float | None = Field(None, gt=0)
    watchdog: float = Field(1800.0, ge=0)


class Problem(OpenTable):
    """[problem]: what is minimised, and how a rank samples its rows.

    batch_size: of a rank. global_batch_size: of all ranks together, which sets batch_size; 0 for none.
    """

    name: str = "digits"
    batch_size: int = Field(32, ge=0)
    global_batch_size: int = Field(0, ge=0)
    sampling: Literal["auto", "reshuffle", "replacement"] = "auto"


class Partition(Table):
    """[partition]: which rows belong to which rank."""

    kind: Literal["iid", "labels", "dirichlet", "sorted"] = "iid"
    alpha: float = Field(0.3, gt=0)
    labels: int = Field(2, ge=1)
    min_rows: int = Field(1, ge=1)


class Algorithm(OpenTable):
    """[algorithm]: an entry of the zoo, its hyperparameters, and what every entry understands."""

    name: str = "signum-mv"
    zeros: Literal["auto", "coin", "random", "plus", "minus", "abstain"] = "auto"
    ties: Literal["auto", "coin", "random", "plus", "minus", "zero"] = "auto"
    accumulate: int = Field(1, ge=1, le=1 << 20)
    clip: float = Field(0.0, ge=0)


class Schedule(Table):
    """[schedule]: the learning rate. Without lr, the zoo's entry has one."""

    kind: Literal["constant", "inverse-sqrt", "step", "cosine"] = "constant"
    lr: float | None = Field(None, gt=0, allow_inf_nan=False)
    warmup: int = Field(0, ge=0)
    milestones: list[Annotated[float, Field(gt=0, lt=1)]] = [0.5, 0.75]
    decay: float = Field(0.1, gt=0, lt=1)


class Dense(Table):
    """[dense]: what sends raw floats: the first steps, and parameters whose names match; at a rate of its own."""

    steps: int = Field(0, ge=0, le=LONGEST)
    parameters: list[str] = []
    lr: float | None = Field(None, gt=0, allow_inf_nan=False)


class Exchange(Table):
    """[exchange]: how messages travel. chunk: bytes of a plane in one, 0 for an eighth from 64 KiB to 1 MiB.

    node_size: ranks of a node for `hierarchical`, 0 for what a host has. gpu_aware: MPI is given memory of the GPU.
    """

    name: str = "auto"
    chunk: Literal[0] | Annotated[int, Field(ge=512, le=1 << 30)] = 0
    progress: Literal["calls", "thread"] = "calls"
    node_size: int = Field(0, ge=0)
    gpu_aware: bool = False


class Checkpoint(Table):
    """[checkpoint]: how often all states are saved, how many are kept, and how long before Slurm's end to stop."""

    every_steps: int = Field(0, ge=0)
    every_minutes: float = Field(10.0, ge=0)
    keep: int = Field(2, ge=1)
    margin_seconds: float = Field(60.0, ge=0)


class Probe(Table):
    """[probe]: what the papers measure, every so many steps; 0 for never. It moves no bit of x.

    batches: of each voter, from which the noise is estimated. smoothness: costs a full gradient more; see schema.py.
    """

    every: int = Field(0, ge=0)
    batches: int = Field(8, ge=2, le=1 << 16)
    smoothness: bool = True


class Adversary(Table):
    """[adversary]: the first `voters` voters lie; see adversary.py. factor: of their scales, or of their floats."""

    voters: int = Field(0, ge=0)
    kind: Literal["invert", "random", "constant", "colluding", "scale"] = "invert"
    factor: float = Field(1.0, ge=-1e6, le=1e6)


class Theory(Table):
    """[theory]: constants of the problem, for run.preset = "theory"; see theory.CONSTANTS."""

    gap: float | None = Field(None, gt=0)
    smoothness: float | None = Field(None, gt=0)
    smoothness_l1: float | None = Field(None, gt=0)
    largest_gradient: float | None = Field(None, gt=0)
    gradient_norm: float | None = Field(None, gt=0)


class Config(Table):
    """A whole job: one run. [sweep] is not part of it; see sweep.py."""

    run: Run = Run()
    problem: Problem = Problem()
    partition: Partition = Partition()
    algorithm: Algorithm = Algorithm()
    schedule: Schedule = Schedule()
    dense: Dense = Dense()
    exchange: Exchange = Exchange()
    checkpoint: Checkpoint = Checkpoint()
    theory: Theory = Theory()
    probe: Probe = Probe()
    adversary: Adversary = Adversary()

    # keys, as "table.key", that nobody chose: where they don't fit a problem, something else takes their place
    _fallbacks: frozenset[str] = pydantic.PrivateAttr(frozenset())

    def with_fallbacks(self, keys: frozenset[str]) -> "Config":
        """The same job, in which these keys ("table.key") give way where they don't fit the problem."""
        config = self.model_copy()
        config._fallbacks = keys
        return config

    def gives_way(self, key: str) -> bool:
        """Whether a key ("table.key") was left from the built-in job, and so gives way where it does not fit."""
        return key in self._fallbacks

    def updated(self, **tables: dict[str, Any]) -> "Config":
        """The same job with other values, by table and key, which are not checked again."""
        return self.model_copy(update={t: getattr(self, t).model_copy(update=new) for t, new in tables.items()})

    def text(self) -> str:
        """The job as TOML with every default written out; options that are not set are left out."""
        return tomli_w.dumps(self.written)

    @property
    def written(self) -> dict[str, dict]:
        """The tables of `text`, as TOML holds them."""
        return _plain(self.model_dump(exclude_none=True))


def _plain(value: Any) -> Any:
    """What a problem's own arguments may be besides TOML's types: paths become text, tuples lists."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, PurePath) else value


# The job of `mpisign train` without a job file; jobs/digits.toml holds the same.
BUILT_IN = {
    "run": {"epochs": 130},
    "problem": {"name": "digits", "batch_size": 8, "hidden": [128], "dropout": 0.2},
    "partition": {"kind": "dirichlet", "alpha": 0.3},
    "algorithm": {"name": "signum-mv"},
    "schedule": {"kind": "cosine", "lr": 0.001},
}
