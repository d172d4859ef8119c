"""Methods of one node: signSGD and its relatives, and rules for the size of a step."""

from typing import Literal

from mpisign.algorithms import theory
from mpisign.algorithms.estimators import (
    CalibratedMomentum,
    Differences,
    FullGradient,
    Lion,
    Minibatch,
    Momentum,
    ZerothOrder,
)
from mpisign.algorithms.method import Algorithm, Stages
from mpisign.algorithms.registry import Beta, Count, NonNegative, Positive, Whole, algorithm
from mpisign.algorithms.signs import NoisySign, Raw, Sign
from mpisign.algorithms.updates import BetterPoint, CalibratedDescent, CalibratingDescent, Descent, ParameterFree, Rprop
from mpisign.algorithms.votes import Majority, Mean
from mpisign.algorithms.zoo.known import MEDIAN, ONE_NODE


@algorithm(
    "signsgd",
    paper="Safaryan & Richtarik 2021, arXiv:1905.12938, alg. 1; Bernstein et al. 2018, arXiv:1802.04434, alg. 1",
    lr=1e-3,
    known=(
        "min over k of E|grad|_rho = O(log K/sqrt(K)) with rates lr/sqrt(k+1) wherever signs are right with "
        "probability above 1/2; without that it may never move (jobs/figures/c1.toml, c3.toml). Option 2 gives the "
        f"last iterate. {MEDIAN}"
    ),
    theory=theory.signsgd_mv,
)
def signsgd(option: Literal[1, 2] = 1, weight_decay: NonNegative = 0.0):
    """Sign of the gradient; option 2 keeps the better of the old and the new point. On several nodes signsgd-mv.

    Option 2: x = argmin{f(x), f(x - lr*sign(g))} (seen in a secondary text), f the exact objective: one value of all
    rows of all voters a step, counted in function_evaluations. Where f is not less, x stays. The preset theory is not
    this paper's: it is the constant rate of Bernstein et al. 2019, thm. 1, as for signsgd-mv.
    """
    update = Descent(weight_decay) if option == 1 else BetterPoint(weight_decay)
    return Algorithm(Minibatch(), Sign(), Majority(), update)


@algorithm(
    "signum",
    paper="Bernstein et al. 2018, arXiv:1802.04434, alg. 2 and thm. 3",
    lr=1e-3,
    known=(
        "Thm. 3 bounds the square of the mean |grad|_1, by (log N)^2/sqrt(N) after N gradients, so it is O(log N * "
        "N^(-1/4)) in l1; for rates lr/sqrt(k+1) and batches that grow as k + 1, which nobody runs. The warm-up "
        f"belongs to it. {MEDIAN}"
    ),
)
def signum(beta: Beta = 0.9, warmup: Whole | None = None, weight_decay: NonNegative = 0.0):
    """Sign of momentum, after a warm-up in which m is gathered while the sign of g decides.

    warmup: so many steps; left out, the theorem's C(beta), 54 for 0.9; 0 for none, as in the paper's experiments. The
    growing batches of the theorem are not built in. Details of this paper are reconstructed: m starts at 0.
    """
    steps = warmup_of(beta) if warmup is None else warmup
    after = Algorithm(Momentum(beta), Sign(), Majority(), Descent(weight_decay))
    if not steps:
        return after
    # Lion with beta1 = 0 decides by g and keeps the same moving average
    before = Algorithm(Lion(0.0, beta), Sign(), Majority(), Descent(weight_decay))
    return Stages(before, after, (("estimator/m", "estimator/m"),), until=steps)


def warmup_of(beta: float) -> int:
    """C(beta): the least C with (C/2)*beta^C <= 1/((1 - beta^2)(C + 1)) and beta^(C+1) <= 1/2."""
    c = 0
    while c / 2 * beta**c > 1 / ((1 - beta**2) * (c + 1)) or beta ** (c + 1) > 0.5:
        c += 1
    return c


@algorithm(
    "signsgd-sim",
    paper="Sun et al. 2023, PMLR 202:33077 (no arXiv number), signSGD-SIM",
    lr=1e-3,
    known=(
        "Momentum alone makes large batches and symmetric noise unnecessary: O(d T^(-1/4)), later O(d^(1/2) T^(-1/4)) "
        f"(arXiv:2507.12091). {ONE_NODE}"
    ),
    theory=theory.signsgd_sim,
)
def signsgd_sim(beta: Beta = 0.9, weight_decay: NonNegative = 0.0):
    """Sign of a moving average of gradients: signum without a warm-up.

    Details of this paper are reconstructed: its theta is our beta.
    """
    return Algorithm(Momentum(beta), Sign(), Majority(), Descent(weight_decay))


@algorithm(
    "lion",
    paper="Chen et al. 2023, arXiv:2302.06675",
    lr=1e-4,
    known=(
        "With weight decay it solves a problem with the constraint |weight_decay * x| <= 1, and rates 3 to 10 times "
        "below AdamW's are advised (both reconstructed)."
    ),
)
def lion(beta1: Beta = 0.9, beta2: Beta = 0.99, weight_decay: NonNegative = 0.0):
    """Sign of beta1*m + (1 - beta1)*g, m a slower average; decoupled weight decay. On several nodes dlion-mavo."""
    return Algorithm(Lion(beta1, beta2), Sign(), Majority(), Descent(weight_decay))


@algorithm(
    "rprop",
    paper="Riedmiller & Braun 1993, IEEE ICNN, in the form without backtracking",
    lr=0.01,
    known=f"No rate is known to us; it is for full gradients, and noise in their signs shrinks its steps. {ONE_NODE}",
)
def rprop(increase: Positive = 1.2, decrease: Positive = 0.5, least: Positive = 1e-6, most: Positive = 50.0):
    """A step size a coordinate, which grows while the sign stays and shrinks when it turns; full gradients.

    lr is only where the sizes start. What travels is one bit, and every rank finds the same sizes from the votes.
    Details of this paper are reconstructed, from a secondary text: the constants.
    """
    return Algorithm(FullGradient(), Sign(), Majority(), Rprop(increase, decrease, least, most))


@algorithm(
    "signsgd-free",
    paper="Medyakov et al. 2025, arXiv:2506.03725, parameter-free Sign-SGD",
    lr=1.0,
    known=(
        "The rate of signSGD with the best constant step, up to logarithms, without knowing it (seen second-hand). "
        f"{ONE_NODE}"
    ),
)
def signsgd_free(
    gap: Positive = 1e-3,
    smoothness: Positive = 1.0,
    most: Positive = 1e-3,
    same_batch: bool = True,
    weight_decay: NonNegative = 0.0,
):
    """signSGD whose steps come from the differences of gradients; lr multiplies them, and 1 is the paper's.

    gamma_t = sqrt(d_t)/sqrt(sum |g_{i+1} - g_i|_1/|x_{i+1} - x_i|_inf),
    d_t = max(d_{t-1}, sum gamma_i <g_{i+1}, sign g_i>), after the authors' code, which seeds the sum and caps gamma at
    1e-3. Where d starts (`gap`) and what the sum is seeded with (`smoothness`) are ours. same_batch takes both
    gradients of a difference on one batch, at twice the cost; the code takes each on its own, so that noise counts as
    curvature, and with small batches its steps soon vanish. Two numbers a voter travel in the header; their means
    take the place of the norms of mean gradients.
    """
    update = ParameterFree(weight_decay, gap=gap, smoothness=smoothness, most=most)
    return Algorithm(Differences(same_batch), Sign(), Majority(), update)


@algorithm(
    "hybrid-signsgd",
    paper="Chen & Wang 2026, arXiv:2604.25550",
    lr=1e-3,
    known=(
        "A small-batch rate in a measure weighted by the signal-to-noise ratio, for symmetric unimodal noise. "
        f"{ONE_NODE}"
    ),
)
def hybrid_signsgd(
    beta: Beta = 0.9,
    noise: NonNegative = 1e-3,
    decay: NonNegative = 0.5,
    average: Beta = 0.99,
    switch: Count = 1000,
    weight_decay: NonNegative = 0.0,
):
    """Sign of dithered momentum for `switch` steps, then SGD at the rate that the signs' steps came to.

    Dithering adds N(0, s^2), s = noise/(t + 1)^decay, before the sign; the paper's schedule was not found, this one is
    ours. The switch (equations seen in a secondary text): lambda_t = lr*|<sign(m), g>|/|g|^2, averaged with `average`,
    is the rate of x -= lambda*g. The average starts at the first lambda, not at 0. It is kept in units of lr, so that a
    schedule goes on. The defaults are ours. On several ranks the mean of their lambda is taken; after the switch raw
    floats travel.
    """
    average_rate = CalibratingDescent(weight_decay, average=average)
    signs = Algorithm(CalibratedMomentum(beta), NoisySign(noise, decay), Majority(), average_rate)
    plain = Algorithm(Minibatch(), Raw(), Mean(), CalibratedDescent(weight_decay))
    return Stages(signs, plain, (("update/ratio", "update/ratio"),), until=switch)


@algorithm(
    "zo-signsgd",
    paper="Liu et al. 2019, ICLR, ZO-signSGD, its majority form (M-ZO) and its distributed one (D-ZO)",
    lr=1e-3,
    known=(
        "O(sqrt(d)/sqrt(T)) at rate 1/sqrt(d T), to a neighbourhood that smoothing and directions set (reconstructed). "
        "Function values in float32 lose their differences where smoothing is small."
    ),
)
def zo_signsgd(
    directions: Count = 10,
    smoothing: Positive = 0.01,
    form: Literal["forward", "central"] = "forward",
    majority: bool = False,
    weight_decay: NonNegative = 0.0,
):
    """Sign of a gradient made of function values along random directions; majority vote across ranks.

    ghat = d/(mu q) * sum of (f(x + mu u) - f(x)) u over q unit vectors u; "central" takes
    (f(x + mu u) - f(x - mu u))/2. mu is smoothing, q is directions, each rank has its own. No gradient is taken: the
    costs are in function_evaluations. majority: M-ZO, in which the sign of each of the q terms is a vote, and each rank
    sends the sign of their sum. Details of this paper are reconstructed: the factor d/(mu q), and M-ZO.
    """
    estimator = ZerothOrder(directions, smoothing, form == "central", majority)
    return Algorithm(estimator, Sign(), Majority(), Descent(weight_decay))
