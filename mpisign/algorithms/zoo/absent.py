"""Methods that the zoo's papers compare with and that are no entries, with the reason and what to run instead."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Absent:
    """A method that is left out. instead: the command that comes nearest."""

    name: str
    paper: str
    reason: str
    instead: str


ABSENT = (
    Absent(
        "ATOMO",
        "Wang et al. 2018, arXiv:1806.04090",
        "it takes a singular value decomposition of every matrix in every step, which costs more than the gradient, and "
        "the authors' own successors (PowerSGD) keep a basis instead; its entrywise form is that of wangni",
        "mpisign train --set algorithm.name=powersgd",
    ),
    Absent(
        "GradiVeQ",
        "Yu et al. 2018, arXiv:1811.03617",
        "its basis comes from a phase of dense training per layer and from how layers are cut, which the paper tunes by "
        "hand; no code was found to compare with",
        "mpisign train --set algorithm.name=powersgd",
    ),
    Absent(
        "ZipML",
        "Zhang et al. 2017, arXiv:1611.05402",
        "it rounds the data of linear models, twice for each use, not what travels between ranks",
        "mpisign train --set algorithm.name=qsgd",
    ),
    Absent(
        "Khirirat et al.",
        "Khirirat, Feyzmahdavian & Johansson 2018, arXiv:1806.06573",
        "it is an analysis of quantised and sparse full gradients, which are entries: batches of all rows make it",
        "mpisign train --set algorithm.name=qsgd --set algorithm.momentum=0 --set problem.batch_size=0",
    ),
)
