"""Signs of matrices: around the polar factor of Muon, with and without error feedback."""

from mpisign.algorithms.compressed import Memory
from mpisign.algorithms.estimators import Lion, Momentum, Nesterov, Polar
from mpisign.algorithms.method import Algorithm
from mpisign.algorithms.polar import Kind
from mpisign.algorithms.registry import Beta, NonNegative, algorithm
from mpisign.algorithms.signs import Raw, ScaledSign, Sign
from mpisign.algorithms.slots import Estimator
from mpisign.algorithms.updates import (
    MatrixDescent,
    PolarDescent,
    PolarSignDescent,
    SignDescent,
    TrackedPolarDescent,
)
from mpisign.algorithms.votes import Majority, Mean, MemoryMean

AUTHORS = "SignMuon, MuonSign, and the Role of Error Feedback (no arXiv number found; code intsystems/SignMuon)"
CODE = f"MIPT Intelligent Systems 2026, {AUTHORS}"


def _momentum(momentum: float, nesterov: bool) -> Estimator:
    return Nesterov(momentum) if nesterov else Momentum(momentum)


@algorithm(
    "muon",
    paper="baseline: Jordan et al. 2024, Muon (code KellerJordan/Muon, no arXiv number)",
    lr=0.02,
    known="Steepest descent in the spectral norm, where the factor is exact and momentum 0. The source proves nothing.",
    sure="departs",
)
def muon(
    momentum: Beta = 0.95,
    nesterov: bool = True,
    polar: Kind = "muon",
    scaled: bool = True,
    others: NonNegative = 0.05,
    weight_decay: NonNegative = 0.0,
):
    """Polar factor of the mean of the ranks' momenta, in floats: the rival of the rows with signs of matrices.

    What is no matrix moves along the sign of its mean momentum, at lr*others, as in these rows; the code has AdamW for
    it. A matrix's rate is lr*sqrt(max(1, rows/columns)) where scaled. Hyperparameters as in signmuon.
    """
    return Algorithm(_momentum(momentum, nesterov), Raw(), Mean(), PolarDescent(weight_decay, scaled, others, polar))


@algorithm(
    "signmuon",
    paper=f"Mishra, Trivedi & Kumar 2026, arXiv:2605.16311; {AUTHORS}",
    lr=0.02,
    known=(
        "Mishra et al.: O(1/sqrt(T)) in a stationarity measure of l1 type for spectral-norm smoothness, the noise term "
        "1/sqrt(n) times that of one voter. The other paper's theorem 1: it ascends a linear function of a 4 x 4 "
        "matrix, by 42468/103 a step and unit of lr (jobs/figures/c14.toml)."
    ),
    sure="departs",
    heterogeneous="refuted",
)
def signmuon(
    momentum: Beta = 0.95,
    nesterov: bool = False,
    polar: Kind = "muon",
    local_polar: bool = False,
    scaled: bool = True,
    others: NonNegative = 0.05,
    weight_decay: NonNegative = 0.0,
):
    """Sign of the polar factor of momentum on each rank, majority vote across ranks.

    A parameter of two or more dimensions is a matrix (its first dimension, all others), as in the code: convolutions
    too. All others vote by the sign of momentum, at lr*others; in the code they, and the head, are averaged for AdamW
    (dense.parameters averages what it names, for SGD). A matrix's rate is lr/sqrt(columns) where scaled, as in the
    code; Mishra et al. have none. local_polar: x moves along the polar factor of the vote, an option of Mishra et al.
    polar "muon": five Newton-Schulz steps (3.4445, -4.775, 2.0315), not in bfloat16, which would flip small signs;
    "converged": 20 that end at the polar factor itself, which theorems are about.
    """
    if local_polar:
        update = PolarDescent(weight_decay, scaled, others, polar)
    else:
        update = SignDescent(weight_decay, scaled, others)
    return Algorithm(Polar(_momentum(momentum, nesterov), polar), Sign(), Majority(), update)


@algorithm(
    "olion",
    paper="Wang, Shen & Zhang 2026, arXiv:2602.01105",
    lr=2e-4,
    known=(
        "No rate is known to us. Published for one node; as signmuon, it can ascend a linear function where signs of "
        "the polar factor point up."
    ),
    sure="reconstructed",
    heterogeneous="refuted",
)
def olion(
    beta1: Beta = 0.9,
    beta2: Beta = 0.99,
    polar: Kind = "muon",
    others: NonNegative = 1.0,
    weight_decay: NonNegative = 0.0,
):
    """Sign of the polar factor of beta1*m + (1 - beta1)*g, m the average after this step; majority vote across ranks.

    m = beta2*m + (1 - beta2)*g first, so the mixture is Lion's with beta1*beta2 for beta1. The paper's rate of a matrix
    is lr*0.2*sqrt(d1*d2)/|s|, which is 0.2*lr where no sign is 0: our lr is 0.2 of the paper's. What is no matrix votes
    by the sign of the mixture, at lr*others. polar as in signmuon. Equations seen in a secondary text. Details of this
    paper are reconstructed: the defaults, and what is no matrix.
    """
    estimator = Polar(Lion(beta1 * beta2, beta2), polar)
    return Algorithm(estimator, Sign(), Majority(), SignDescent(weight_decay, scaled=False, others=others))


@algorithm(
    "muonusign",
    paper=CODE,
    lr=0.02,
    known=(
        "Theorem 2: it ascends a linear function of a 5 x 5 matrix, by 13.888 a step and unit of lr (jobs/figures/"
        "c14.toml). No rate is claimed."
    ),
    sure="departs",
    heterogeneous="refuted",
)
def muonusign(
    momentum: Beta = 0.95,
    nesterov: bool = False,
    polar: Kind = "muon",
    scaled: bool = True,
    others: NonNegative = 0.05,
    weight_decay: NonNegative = 0.0,
):
    """Sign of momentum on each rank, majority vote, and x moves along the polar factor of the vote.

    The paper's server sends the polar factor, 32 bits; here every rank works it out from the vote, to the same bits, so
    one comes down. A matrix's rate is lr*sqrt(max(1, rows/columns)) where scaled. Hyperparameters as in signmuon.
    """
    return Algorithm(
        _momentum(momentum, nesterov), Sign(), Majority(), PolarDescent(weight_decay, scaled, others, polar)
    )


@algorithm(
    "muonsign",
    paper=CODE,
    lr=0.02,
    known=(
        "Theorem 3: it ascends the linear function on which muonusign does, by 76 a step and unit of lr (jobs/figures/"
        "c14.toml). No rate is claimed."
    ),
    sure="departs",
    heterogeneous="refuted",
)
def muonsign(
    momentum: Beta = 0.95,
    nesterov: bool = False,
    polar: Kind = "muon",
    scaled: bool = True,
    others: NonNegative = 0.05,
    weight_decay: NonNegative = 0.0,
):
    """Sign of momentum on each rank, majority vote, and x moves along the signs of the polar factor of the vote.

    The paper's server sends these signs; here every rank works them out from the vote. Where the factor is 0, x stays,
    while the code draws a sign. A matrix's rate is lr/sqrt(columns) where scaled. Hyperparameters as in signmuon.
    """
    update = PolarSignDescent(weight_decay, scaled, others, polar)
    return Algorithm(_momentum(momentum, nesterov), Sign(), Majority(), update)


@algorithm(
    "ef21-muonusign",
    paper=CODE,
    lr=0.02,
    known=(
        "The rate of EF21-Muon (Gruntkowska et al. 2025), of which it is the form with scaled signs up. It descends on "
        "the linear functions on which muonusign and muonsign ascend."
    ),
    sure="departs",
    heterogeneous="proved",
)
def ef21_muonusign(
    momentum: Beta = 0.95,
    nesterov: bool = False,
    polar: Kind = "muon",
    scaled: bool = True,
    others: NonNegative = 0.05,
    weight_decay: NonNegative = 0.0,
):
    """Scaled signs of differences between momentum and a memory of it; x moves along the memories' polar factor.

    Sends (|r|_1/d)*sign(r) for each tensor, r = m - h, h += that on each rank; the mean of all h comes down as floats,
    and D = polar(mean h). What is no matrix moves along sign(mean h), for which the code has AdamW. A matrix's rate is
    lr*sqrt(max(1, rows/columns)) where scaled. Hyperparameters as in signmuon.
    """
    update = PolarDescent(weight_decay, scaled, others, polar)
    return Algorithm(_momentum(momentum, nesterov), Memory(ScaledSign()), MemoryMean(), update)


@algorithm(
    "ef21-muonsign",
    paper=CODE,
    lr=0.02,
    known="The rate of EF21-Muon with EF21-P down (Gruntkowska et al. 2025), for the exact point y, not for x.",
    sure="departs",
    heterogeneous="proved",
)
def ef21_muonsign(
    momentum: Beta = 0.95,
    nesterov: bool = False,
    polar: Kind = "muon",
    scaled: bool = True,
    others: NonNegative = 0.05,
    weight_decay: NonNegative = 0.0,
):
    """ef21-muonusign moves a point y, and x follows it by scaled signs: x += mean|y - x|*sign(y - x) for each tensor.

    Gradients are taken at x, which is what is evaluated and saved too. The steps are the paper's; its wire is not: its
    server, which has whole matrices, sends the signs of y - x, one bit. Here ranks count shares of matrices, so the
    mean of the memories comes down as floats, and each rank works y and x out.
    """
    update = TrackedPolarDescent(weight_decay, scaled, others, polar)
    return Algorithm(_momentum(momentum, nesterov), Memory(ScaledSign()), MemoryMean(), update)


@algorithm(
    "ef21-signmuon",
    paper=CODE,
    lr=0.02,
    known=(
        "Warning: it can diverge. Theorem 4: for every L, lr and momentum there is a smooth function of a 2 x 2 "
        "matrix, bounded below, that it ascends by 49/480 a step in the theorem's units, where the others stay bounded "
        "(jobs/figures/c14.toml). Take ef21-muonusign."
    ),
    sure="departs",
    heterogeneous="refuted",
)
def ef21_signmuon(
    momentum: Beta = 0.95,
    nesterov: bool = False,
    polar: Kind = "muon",
    scaled: bool = True,
    others: NonNegative = 0.05,
    weight_decay: NonNegative = 0.0,
):
    """Scaled signs of differences between the polar factor of momentum and a memory of it; x moves along the memories.

    Can diverge: see what is known. What is no matrix moves along the sign of its memories' mean, for which the code has
    AdamW. A matrix's rate is lr*sqrt(max(1, rows/columns)) where scaled. Hyperparameters as in signmuon.
    """
    estimator = Polar(_momentum(momentum, nesterov), polar)
    return Algorithm(estimator, Memory(ScaledSign()), MemoryMean(), MatrixDescent(weight_decay, scaled, others))
