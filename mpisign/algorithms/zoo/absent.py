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
        "it takes a singular value decomposition of every matrix in every step, which costs more than the gradient, "
        "and the authors' own successors (PowerSGD) keep a basis instead; its entrywise form is that of wangni",
        "mpisign train --set algorithm.name=powersgd",
    ),
    Absent(
        "GradiVeQ",
        "Yu et al. 2018, arXiv:1811.03617",
        "its basis comes from a phase of dense training per layer and from how layers are cut, which the paper tunes "
        "by hand; no code was found to compare with",
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
    Absent(
        "Tiger",
        "Su 2023, github.com/bojone/tiger",
        "it is signum with decoupled weight decay, Lion with beta1 = beta2, which signum-mv is already",
        "mpisign train --set algorithm.name=signum-mv --set algorithm.weight_decay=0.01",
    ),
    Absent(
        "APMSqueeze",
        "Tang et al. 2020, arXiv:2008.11343",
        "it is an earlier form of onebit-adam, by mostly the same authors: Adam, then its variance frozen and momentum "
        "in one bit with error feedback on both sides",
        "mpisign train --set algorithm.name=onebit-adam",
    ),
    Absent(
        "Grams",
        "Cao, Li & Song 2024, arXiv:2412.17107",
        "the sign of g could travel, but the size |m|/sqrt(v) of a step is each rank's own, while x moves alike on all",
        "mpisign train --set algorithm.name=adam",
    ),
    Absent(
        "Ano",
        "Kegreisz 2025, arXiv:2508.18258",
        "the sign of m could travel, but the size |g|/sqrt(v) of a step is each rank's own, while x moves alike on all",
        "mpisign train --set algorithm.name=signum-mv",
    ),
    Absent(
        "SAGE",
        "Lee & Kim 2026, arXiv:2604.07663",
        "it is Lion times a damper in [0, 1] from each rank's own |g|, which would have to travel as floats",
        "mpisign train --set algorithm.name=dlion-mavo",
    ),
    Absent(
        "CLion",
        "Huang, Zhang & Chen 2026, arXiv:2604.14587",
        "it sends signs only if the smallest entry of all of v is no less than a threshold, else v itself: with many "
        "coordinates that is floats in every step, and ranks need not agree",
        "mpisign train --set algorithm.name=dlion-mavo",
    ),
    Absent(
        "S3 (SoftSignSGD)",
        "Peng et al. 2025, arXiv:2507.06464",
        "its step n/b in [-1, 1] is a float; Birder, by the same authors, sends a stochastic sign of such a quotient",
        "mpisign train --set algorithm.name=birder",
    ),
    Absent(
        "SoftSignum",
        "Feoktistov et al. 2026, arXiv:2605.31371",
        "its step tanh(tau*m) is a float, not one bit",
        "mpisign train --set algorithm.name=signum-mv",
    ),
    Absent(
        "PowerStep",
        "Lu et al. 2026, arXiv:2605.10335",
        "its step sign(m)*|m|^beta is a float; with beta = 0 it is signum on the heavy ball",
        "mpisign train --set algorithm.name=signum-mv",
    ),
    Absent(
        "FRUGAL",
        "Zmushko et al. 2024, arXiv:2411.07837",
        "signs and Adam's floats share each matrix, along a subspace that changes as it runs, while here a parameter "
        "votes or is averaged for the whole run",
        "mpisign train --set algorithm.name=signsgd-mv --set 'dense.parameters=[\"*.bias\"]'",
    ),
    Absent(
        "LionMuon",
        "no number found",
        "only a line of a digest was found, which says that it alternates between the two",
        "mpisign train --set algorithm.name=olion",
    ),
    Absent(
        "ZOQO",
        "Bar & Giryes 2025, arXiv:2501.06736",
        "x, its noise and its steps lie on the grid of a quantised model, which x in float32 has not",
        "mpisign simulate --set problem.name=quadratic --set algorithm.name=zo-signsgd --set algorithm.form=central",
    ),
    Absent(
        "pFed1BS",
        "Qiu et al. 2025, arXiv:2511.13144",
        "each client keeps a model of its own and sends one-bit sketches of it, while voters here share one x",
        "mpisign train --set algorithm.name=z-signfedavg",
    ),
    Absent(
        "PRoBit+",
        "Lan, Xiao & Zhang 2025, arXiv:2507.03973",
        "each client keeps a model of its own, drawn towards a shared one, and sends stochastic bits of it, while "
        "voters here share one x",
        "mpisign train --set algorithm.name=z-signfedavg",
    ),
    Absent(
        "Langevin unlearning with public data",
        "2026, arXiv:2605.11170, asymmetric Langevin unlearning",
        "it is about forgetting rows: noisy projected gradient descent on private and public rows, on one node and in "
        "floats, with a certificate that depends on the noise; nothing is voted on or compressed",
        "mpisign train --set algorithm.name=dp-sign",
    ),
)
