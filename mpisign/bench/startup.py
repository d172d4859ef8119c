"""`mpisign bench startup`: seconds of every rank from its creation to the end of a job's first step, by phase."""

from statistics import median

from mpisign.bench.table import Table, machine
from mpisign.parallel.mpi import Ranks

COLUMNS = {"n": "d", "phase": "", "seconds": ".2f", "most": ".2f", "CPU seconds": ".2f"}
Seconds = tuple[float, float]  # that have passed, and of a processor


def startup(seconds: dict[str, Seconds], ranks: Ranks) -> Table:
    """A table of one start: a row per phase, in order, and one of the whole. Collective.

    seconds: the median over ranks; most: of any. MPI's start lasts until the last rank is there, and so do kernels, and
    all from rows to the first step. CPU seconds: the median over ranks.
    """
    told = ranks.allgather(seconds)
    about = {"mpi": ranks.library, "hosts": ranks.hosts, "threads": ranks.threads}
    table = Table("startup", COLUMNS, about | machine())
    for phase in seconds:
        _add(table, ranks.size, phase, [one[phase] for one in told])
    _add(table, ranks.size, "whole", [tuple(map(sum, zip(*one.values(), strict=True))) for one in told])
    return table


def _add(table: Table, n: int, phase: str, told: list[Seconds]) -> None:
    passed, used = zip(*told, strict=True)
    table.add(n=n, phase=phase, seconds=median(passed), most=max(passed), **{"CPU seconds": median(used)})
