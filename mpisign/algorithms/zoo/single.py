"""Methods of one node: signSGD and its relatives, and rules for the size of a step."""

from typing import Literal

from mpisign.algorithms import theory
from mpisign.algorithms.estimators import (
    CalibratedMomentum,
    Differences,
    Extrapolated,
    FullGradient,
    GrowingBatch,
    Lion,
    Minibatch,
    Momentum,
    ProximalMap,
    ZerothOrder,
)
from mpisign.algorithms.method import Algorithm, Stages
from mpisign.algorithms.registry import Beta, Count, Fraction, NonNegative, Positive, Whole, algorithm
from mpisign.algorithms.signs import NoisySign, Raw, Sign
from mpisign.algorithms.slots import Estimator
from mpisign.algorithms.updates import (
    AcceleratedDescent,
    AttractedDescent,
    BetterPoint,
    CalibratedDescent,
    CalibratingDescent,
    Descent,
    ImprovedRprop,
    ParameterFree,
    Rprop,
)
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
    sure="second-hand",
    theory=theory.signsgd_mv,
    heterogeneous="refuted",
)
def signsgd(option: Literal[1, 2] = 1, grow_every: Whole = 0, weight_decay: NonNegative = 0.0):
    """Sign of the gradient; option 2 keeps the better of the old and the new point. On several nodes signsgd-mv.

    Option 2: x = argmin{f(x), f(x - lr*sign(g))} (seen in a secondary text), f the exact objective: one value of all
    rows of all voters a step, counted in function_evaluations. Where f is not less, x stays. The preset theory is not
    this paper's: it is the constant rate of Bernstein et al. 2019, thm. 1, as for signsgd-mv. grow_every as in signum;
    the batches of thm. 1 of 2018 do not grow, but are as many rows as there are steps: problem.batch_size.
    """
    update = Descent(weight_decay) if option == 1 else BetterPoint(weight_decay)
    return Algorithm(_batches(grow_every), Sign(), Majority(), update)


def _batches(grow_every: int) -> Estimator:
    return GrowingBatch(grow_every) if grow_every else Minibatch()


@algorithm(
    "signum",
    paper="Bernstein et al. 2018, arXiv:1802.04434, alg. 2 and thm. 3",
    lr=1e-3,
    known=(
        "Thm. 3 bounds the square of the mean |grad|_1, by (log N)^2/sqrt(N) after N gradients, so it is O(log N * "
        "N^(-1/4)) in l1; for rates lr/sqrt(k+1) and batches of k + 1 rows (grow_every = 1), which nobody runs. The "
        f"warm-up belongs to it. {MEDIAN}"
    ),
    sure="reconstructed",
    heterogeneous="refuted",
)
def signum(beta: Beta = 0.9, warmup: Whole | None = None, grow_every: Whole = 0, weight_decay: NonNegative = 0.0):
    """Sign of momentum, after a warm-up in which m is gathered while the sign of g decides.

    warmup: so many steps; left out, the theorem's C(beta), 54 for 0.9; 0 for none, as in the paper's experiments.
    grow_every: batches gain a minibatch every so many steps, 0 for never; the theorem's have k + 1 rows at step k, that
    is 1 with problem.batch_size = 1. They are further minibatches of the same passes. Details of this paper are
    reconstructed: m starts at 0.
    """
    steps, batches = warmup_of(beta) if warmup is None else warmup, _batches(grow_every)
    after = Algorithm(Momentum(beta, of=batches), Sign(), Majority(), Descent(weight_decay))
    if not steps:
        return after
    # Lion with beta1 = 0 decides by g and keeps the same moving average
    before = Algorithm(Lion(0.0, beta, batches), Sign(), Majority(), Descent(weight_decay))
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
    sure="reconstructed",
    theory=theory.signsgd_sim,
    heterogeneous="refuted",
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
    sure="stated",
    heterogeneous="refuted",
)
def lion(beta1: Beta = 0.9, beta2: Beta = 0.99, weight_decay: NonNegative = 0.0):
    """Sign of beta1*m + (1 - beta1)*g, m a slower average; decoupled weight decay. On several nodes dlion-mavo."""
    return Algorithm(Lion(beta1, beta2), Sign(), Majority(), Descent(weight_decay))


@algorithm(
    "rprop",
    paper="Riedmiller & Braun 1993, IEEE ICNN; Igel & Huesken 2003, Neurocomputing 50, without and with backtracking",
    lr=0.01,
    known=f"No rate is known to us; it is for full gradients, and noise in their signs shrinks its steps. {ONE_NODE}",
    sure="reconstructed",
    heterogeneous="refuted",
)
def rprop(
    increase: Positive = 1.2,
    decrease: Positive = 0.5,
    least: Positive = 1e-6,
    most: Positive = 50.0,
    backtrack: Literal["never", "always", "risen"] = "never",
):
    """A step size a coordinate, which grows while the sign stays and shrinks when it turns; full gradients.

    lr is only where the sizes start. What travels is one bit, and every rank finds the same sizes from the votes.
    backtrack: where the sign turned, x stays ("never", which Igel & Huesken call iRprop-, torch's too), takes its last
    step back ("always", the Rprop+ of 1993), or does so only if f has risen ("risen", iRprop+: one exact value of all
    rows of all voters a step, counted in function_evaluations). Details of these papers are reconstructed, from
    secondary texts: the constants, and iRprop+.
    """
    if backtrack == "risen":
        return Algorithm(FullGradient(), Sign(), Majority(), ImprovedRprop(increase, decrease, least, most))
    update = Rprop(increase, decrease, least, most, backtrack == "always")
    return Algorithm(FullGradient(), Sign(), Majority(), update)


@algorithm(
    "sign-igt",
    paper="Jang & Lee 2026, arXiv:2605.05577, LMO-IGT for the max norm",
    lr=1e-3,
    known=(
        "O(eps^(-3.5)) steps, in a measure of the paper's own, with one gradient per row: between momentum's "
        f"O(eps^(-4)) and the O(eps^(-3)) of variance reduction, which takes more (abstract). {ONE_NODE}"
    ),
    sure="reconstructed",
    heterogeneous="refuted",
)
def sign_igt(beta: Beta = 0.9, weight_decay: NonNegative = 0.0):
    """Sign of an average of gradients at points ahead, x + beta/(1 - beta)*(x - x before): signum with transport.

    The average is that of nigt, of which this takes the sign and nigt the direction; m starts as the first gradient, at
    x itself. The recorded loss of a batch is that at the point ahead. Details of this paper are reconstructed: that the
    average and the points are those of Cutkosky & Mehta 2020.
    """
    estimator = Momentum(beta, start="estimate", of=Extrapolated(beta))
    return Algorithm(estimator, Sign(), Majority(), Descent(weight_decay))


@algorithm(
    "signprox",
    paper="Xu & Kamilov 2018, arXiv:1807.08023",
    lr=1e-3,
    known=(
        "The rate of the uncompressed stochastic proximal gradient for non-convex functions, under assumptions on "
        f"regulariser and noise (abstract). {ONE_NODE}"
    ),
    sure="second-hand",
    heterogeneous="refuted",
)
def signprox(l1: NonNegative = 1e-4, box: NonNegative = 0.0):
    """Sign of x - prox(x - lr*g), for f + l1*|x|_1 and, with box > 0, within |x| <= box.

    The proximal step looks at lr itself. A step has length lr, so x ends within lr of the box and of zeros, not on
    them. r is no part of the recorded loss. The paper's regularisers are sums of which one is drawn; here r is whole.
    Equations seen in a secondary text.
    """
    return Algorithm(ProximalMap(l1, box), Sign(), Majority(), Descent())


@algorithm(
    "accelerated-signgd",
    paper="Leplat et al. 2025, arXiv:2508.18510, accelerated signGD with restarts",
    lr=1e-3,
    known=f"The paper's results are for its flow in continuous time (seen second-hand). {ONE_NODE}",
    sure="second-hand",
    heterogeneous="refuted",
)
def accelerated_signgd(momentum: Beta = 0.9):
    """p' = y - lr*sign(g(y)), y' = p' + momentum*(p' - p); y' = p' where f(y') is above f(p'). Full gradients.

    What a run evaluates and saves is y. f is exact: two values of all rows of all voters a step, counted in
    function_evaluations. Equations seen in a secondary text.
    """
    return Algorithm(FullGradient(), Sign(), Majority(), AcceleratedDescent(momentum=momentum))


@algorithm(
    "focus",
    paper="Liu, Liu & Gore 2025, arXiv:2501.12243",
    lr=1e-3,
    known=f"No rate is known to us. {ONE_NODE}",
    sure="stated",
    heterogeneous="refuted",
)
def focus(beta1: Beta = 0.9, beta2: Beta = 0.999, gamma: Fraction = 0.1, weight_decay: NonNegative = 0.0):
    """Signum with attraction: x -= lr*(sign(m) + gamma*sign(x - c)), c a corrected average of x that forgets by beta2.

    Every rank has the same x and so the same c; one bit travels. Weight decay takes lr*weight_decay*c off x afterwards.
    After the authors' code (liuyz0/FOCUS).
    """
    return Algorithm(Momentum(beta1), Sign(), Majority(), AttractedDescent(gamma, beta2, weight_decay))


@algorithm(
    "signsgd-free",
    paper="Medyakov et al. 2025, arXiv:2506.03725, parameter-free Sign-SGD",
    lr=1.0,
    known=(
        "The rate of signSGD with the best constant step, up to logarithms, without knowing it (seen second-hand). "
        f"{ONE_NODE}"
    ),
    sure="departs",
    heterogeneous="refuted",
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
    sure="second-hand",
    heterogeneous="refuted",
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
    sure="reconstructed",
    heterogeneous="refuted",
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
