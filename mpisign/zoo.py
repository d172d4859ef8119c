"""The table of papers: one function an algorithm, whose signature is the only list of hyperparameters.

Our symbols: g gradient, v estimate, m moving average, n voters, lr learning rate, t step from 0.
"""

from mpisign.algorithm import Algorithm, Beta, Fraction, NonNegative, Positive, algorithm
from mpisign.errors import UsageError
from mpisign.estimators import Minibatch, Momentum, Storm
from mpisign.signs import ErrorFeedback, Raw, ScaledSign, Sign, StochasticSign
from mpisign.updates import Adam, Descent, Sgd
from mpisign.votes import Average, Majority, Mean, RandomisedMajority, ServerErrorFeedback


@algorithm("signsgd-mv", paper="Bernstein et al. 2018, arXiv:1802.04434, alg. 3", lr=1e-3)
def signsgd_mv(weight_decay: NonNegative = 0.0):
    """Sign of the gradient on each rank, majority vote across ranks. The paper's delta is our lr."""
    return Algorithm(Minibatch(), Sign(), Majority(), Descent(weight_decay))


@algorithm("signum-mv", paper="Bernstein et al. 2019, arXiv:1810.05291, alg. 1", lr=1e-3)
def signum_mv(beta: Beta = 0.9, weight_decay: NonNegative = 0.0):
    """Sign of momentum on each rank, majority vote across ranks. The paper's eta, lambda: lr, weight_decay."""
    return Algorithm(Momentum(beta), Sign(), Majority(), Descent(weight_decay))


@algorithm("ssdm", paper="Safaryan & Richtarik 2021, arXiv:1905.12938, alg. 3", lr=0.03)
def ssdm(beta: Beta = 0.9, weight_decay: NonNegative = 0.0):
    """Stochastic sign of momentum with its own norm as radius, averaged; no vote is taken.

    v6 of the paper (2026) withdraws the claim for heterogeneous data. m starts as the first gradient
    (recalled, not seen). The paper's gamma is our lr: a step has length gamma*|tally|/n a coordinate.
    """
    return Algorithm(Momentum(beta, start="gradient"), StochasticSign(), Average(), Descent(weight_decay))


@algorithm("dist-ef-signsgd", paper="Zheng et al. 2019, arXiv:1905.10936, alg. 2, block-wise", lr=0.1)
def dist_ef_signsgd(weight_decay: NonNegative = 0.0):
    """Scaled signs with error feedback on each rank and at the vote; one block is one tensor.

    Residuals are kept in units of x, which equals the paper's eta_{t-1}/eta_t factors (recalled) without
    a ratio. A third-party list names a proof error for decreasing steps: prefer slowly decaying ones.
    """
    return Algorithm(Minibatch(), ErrorFeedback(ScaledSign()), ServerErrorFeedback(), Descent(weight_decay))


@algorithm("ssvr-mv", paper="Jiang et al. 2024, arXiv:2406.00489, alg. 3", lr=1e-3, needs=("two points",))
def ssvr_mv(option: int = 2, beta: Fraction = 0.5, radius: Positive = 1.0, weight_decay: NonNegative = 0.0):
    """STORM on each rank, stochastic sign of radius R; option 1 majority, option 2 randomised majority.

    Option 2 projects v onto the ball of radius G = R inside the recursion; R = G and the place of the
    projection are recalled, not seen. Option 1 has a proven gradient floor (arXiv:2609.18656, prop. 1).
    A radius far above |v_i| makes every bit nearly a coin flip: small n then needs very many steps.
    """
    if option not in (1, 2):
        raise UsageError(f"algorithm.option = {option}: ssvr-mv has options 1 and 2")
    vote, project = (Majority(), 0.0) if option == 1 else (RandomisedMajority(), radius)
    return Algorithm(Storm(beta, project), StochasticSign(radius), vote, Descent(weight_decay))


@algorithm("sgd", paper="baseline: mean of float32 gradients", lr=0.1)
def sgd(momentum: Beta = 0.9, weight_decay: NonNegative = 0.0, nesterov: bool = False):
    """SGD with momentum on the mean gradient."""
    return Algorithm(Minibatch(), Raw(), Mean(), Sgd(momentum, weight_decay, nesterov))


@algorithm("adam", paper="baseline: Kingma & Ba 2015, arXiv:1412.6980; decoupled weight decay", lr=1e-3)
def adam(beta1: Beta = 0.9, beta2: Beta = 0.999, epsilon: Positive = 1e-8, weight_decay: NonNegative = 0.0):
    """Adam on the mean gradient."""
    return Algorithm(Minibatch(), Raw(), Mean(), Adam(beta1, beta2, epsilon, weight_decay))
