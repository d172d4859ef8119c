"""Dense baselines: means of float32 gradients, normalised or adaptive steps, and the sign scaled by its dual norm."""

from mpisign.algorithms.estimators import DualNorm, Extrapolated, Minibatch, Momentum, Sag, Saga
from mpisign.algorithms.method import Algorithm
from mpisign.algorithms.registry import Beta, NonNegative, Positive, algorithm
from mpisign.algorithms.signs import Raw, Sign
from mpisign.algorithms.updates import (
    Adadelta,
    Adagrad,
    Adam,
    NormalisedDescent,
    Sgd,
    SteepestDescent,
    VarianceAdapted,
    Yogi,
)
from mpisign.algorithms.votes import Majority, Mean
from mpisign.algorithms.zoo.known import ONE_NODE

RAW = "Published for one node; on several, the mean of the voters' raw floats takes the gradient's place."


@algorithm(
    "sgd",
    paper="baseline: mean of float32 gradients",
    lr=0.1,
    known="The usual rates.",
    sure="stated",
    heterogeneous="proved",
)
def sgd(momentum: Beta = 0.9, weight_decay: NonNegative = 0.0, nesterov: bool = False):
    """SGD with momentum on the mean gradient."""
    return Algorithm(Minibatch(), Raw(), Mean(), Sgd(momentum, weight_decay, nesterov))


@algorithm(
    "adam",
    paper="baseline: Kingma & Ba 2015, arXiv:1412.6980; decoupled weight decay",
    lr=1e-3,
    known="It can diverge on some convex problems (Reddi et al. 2018); in practice it is the one to beat.",
    sure="stated",
)
def adam(beta1: Beta = 0.9, beta2: Beta = 0.999, epsilon: Positive = 1e-8, weight_decay: NonNegative = 0.0):
    """Adam on the mean gradient."""
    return Algorithm(Minibatch(), Raw(), Mean(), Adam(beta1, beta2, epsilon, weight_decay))


@algorithm(
    "adagrad",
    paper="baseline: Duchi, Hazan & Singer 2011, JMLR 12:2121",
    lr=0.05,
    known=f"Regret O(sqrt(T)) for convex functions, by the data's own geometry; steps only shrink. {RAW}",
    sure="departs",
)
def adagrad(epsilon: Positive = 1e-10, weight_decay: NonNegative = 0.0):
    """Adagrad on the mean gradient: s = s + g^2, x -= lr*g/(sqrt(s) + epsilon).

    s starts at 0. That and epsilon outside of the root are torch.optim.Adagrad's defaults, whose weight decay is added
    to g, while ours is decoupled. optax starts s at 0.1, puts its epsilon of 1e-7 inside of the root, and does not move
    where s is 0.
    """
    return Algorithm(Minibatch(), Raw(), Mean(), Adagrad(epsilon, weight_decay))


@algorithm(
    "adadelta",
    paper="baseline: Zeiler 2012, arXiv:1212.5701, alg. 1",
    lr=1.0,
    known=f"The paper proves nothing. Steps are slow at first, as their scale grows from epsilon. {RAW}",
    sure="departs",
)
def adadelta(rho: Beta = 0.95, epsilon: Positive = 1e-6, weight_decay: NonNegative = 0.0):
    """Adadelta on the mean gradient: x -= lr*RMS(earlier steps)/RMS(g)*g, RMS(a) = sqrt(average of a^2 + epsilon).

    The paper has no learning rate, which is lr = 1. Both averages start at 0. torch.optim.Adadelta takes the same steps
    with rho = 0.9 by default, and adds weight decay to g, while ours is decoupled.
    """
    return Algorithm(Minibatch(), Raw(), Mean(), Adadelta(rho, epsilon, weight_decay))


@algorithm(
    "yogi",
    paper="baseline: Zaheer et al. 2018, NeurIPS 31, alg. 2",
    lr=0.01,
    known=(
        "To a stationary point of smooth nonconvex functions, up to a term of the gradient's variance that large "
        f"batches make small (without bias correction). {RAW}"
    ),
    sure="reconstructed",
)
def yogi(
    beta1: Beta = 0.9,
    beta2: Beta = 0.999,
    epsilon: Positive = 1e-3,
    initial: NonNegative = 1e-6,
    weight_decay: NonNegative = 0.0,
):
    """Yogi on the mean gradient: Adam with v -= (1 - beta2)*sign(v - g^2)*g^2, so that v changes by no more than g^2.

    v starts as `initial`. The biases of m and v are corrected as optax.yogi does it, though the paper's alg. 2 has no
    correction; optax starts m as `initial` too, which ours starts at 0. The paper's initial v is a mean of squares of a
    batch's gradient; 1e-6 is optax's. weight_decay is decoupled. Details of this paper are reconstructed: that alg. 2
    corrects no bias.
    """
    return Algorithm(Minibatch(), Raw(), Mean(), Yogi(beta1, beta2, epsilon, initial, weight_decay))


@algorithm(
    "m-svag",
    paper="Balles & Hennig 2018, arXiv:1705.07774, alg. 1",
    lr=0.1,
    known=(
        "The paper proves a rate for the idealised factors of SVAG on strongly convex functions, where the true "
        f"variance is known; of M-SVAG with its estimate nothing. {RAW} The variance is then the mean's, over steps."
    ),
    sure="stated",
)
def m_svag(beta: Beta = 0.9, weight_decay: NonNegative = 0.0):
    """Momentum on the mean gradient, shortened where it is noise: x -= lr*gamma*m, gamma = m^2/(m^2 + rho*s).

    s is the variance of g that averages of g and g^2 tell, rho the share of it that is left in m. Adam is the sign of m
    with such a factor; this is Adam without its sign. The first step is lr*g. weight_decay is decoupled.
    """
    return Algorithm(Minibatch(), Raw(), Mean(), VarianceAdapted(beta, weight_decay))


@algorithm(
    "nigt",
    paper="Cutkosky & Mehta 2020, arXiv:2002.03305, alg. 1",
    lr=0.1,
    known=(
        "E|grad| = O(T^(-2/7)) for functions whose Hessian is Lipschitz, with one gradient per step and no large "
        f"batches. {RAW}"
    ),
    sure="reconstructed",
)
def nigt(beta: Beta = 0.9, weight_decay: NonNegative = 0.0):
    """Normalised SGD with implicit gradient transport: m = beta*m + (1 - beta)*g(x'), x -= lr*m/|m|, by the mean m.

    x' = x_t + beta/(1 - beta)*(x_t - x_{t-1}), |m| the Euclidean norm of the whole mean over voters. m starts as the
    first gradient, at x itself. The recorded loss of a batch is that at x'. weight_decay is decoupled. Details of this
    paper are reconstructed: the first step.
    """
    estimator = Momentum(beta, start="estimate", of=Extrapolated(beta))
    return Algorithm(estimator, Raw(), Mean(), NormalisedDescent(weight_decay))


@algorithm(
    "ssd",
    paper="Carlson, Cevher & Carin 2015, PMLR 38:111, stochastic spectral descent, its l_inf form",
    lr=1e-4,
    known=(
        "f falls by at least |grad|_1^2/(2 L) per step of an exact gradient at lr = 1/L, L the smoothness in the max "
        f"norm. {ONE_NODE}"
    ),
    sure="reconstructed",
    heterogeneous="refuted",
)
def ssd(weight_decay: NonNegative = 0.0):
    """Steepest descent in the max norm: x -= lr*|g|_1*sign(g), |g|_1 over the whole vector.

    The sign that signSGD takes, scaled by the dual norm that it drops. On several ranks a majority of signs decides and
    |g|_1 is the mean of the voters', one float64 per voter beside the bits. The paper's own method is for matrices, in
    the Schatten-inf norm: |sigma|_1 * U V^T. weight_decay is decoupled. Details of this paper are reconstructed: the
    step for vectors, and all of what is said about several ranks.
    """
    return Algorithm(DualNorm(), Sign(), Majority(), SteepestDescent(weight_decay))


@algorithm(
    "sag",
    paper="Schmidt, Le Roux & Bach 2013, arXiv:1309.2388, alg. 1",
    lr=0.05,
    known=(
        "O(1/T) for convex and linear for strongly convex sums, at lr = 1/(16 L), L the largest smoothness of a row's "
        f"loss (proved for batches of one row, drawn with replacement). For linear problems only, as networks have no "
        f"gradients of one number per row. {RAW}"
    ),
    sure="stated",
)
def sag(weight_decay: NonNegative = 0.0):
    """Stochastic average gradient: x -= lr*mean of the latest gradients of all rows seen so far, kept as a table.

    The table has a number per row and linear form of which the row's loss must be a function: problems that are so
    offer "linear", and their regularisers are taken exactly. Each voter has a table of its own rows, and the voters'
    estimates are averaged. In the first pass the mean is of the rows seen (section 4.1). weight_decay is added to the
    gradient, as for sgd. lr = 1/(16 L) is the theory's, 1/L the paper's advice, with L = |a|^2/4 + l2 for logistic
    regression. algorithm.clip has no effect.
    """
    return Algorithm(Sag(), Raw(), Mean(), Sgd(0.0, weight_decay))


@algorithm(
    "saga",
    paper="Defazio, Bach & Lacoste-Julien 2014, arXiv:1407.0202",
    lr=0.05,
    known=(
        "Linear for strongly convex sums at lr = 1/(3 L), O(1/T) for convex ones, as in sag (proved for batches of one "
        f"row and a table that starts as all gradients at x). For linear problems only, as sag. {RAW}"
    ),
    sure="departs",
)
def saga(weight_decay: NonNegative = 0.0):
    """SAG's unbiased sibling: v = new - old gradients of the batch, their mean, + mean of the table before it.

    The table starts as zeros, so that the first pass is of plain SGD whose noise falls as rows are seen; the paper's
    starts as the gradients at the first x, one pass over all rows. All else as in sag, without a proximal step.
    """
    return Algorithm(Saga(), Raw(), Mean(), Sgd(0.0, weight_decay))
