"""Quantised gradients: levels, ternary values, two means; differences to a memory; codes both ways; and Lion's."""

from typing import Annotated, Literal

from pydantic import Field

from mpisign.algorithms.compressed import Compressed, InMeans, Memory
from mpisign.algorithms.compressors import Chosen, Largest, Levels, TwoMeans, WholeNumbers
from mpisign.algorithms.estimators import Lion, Minibatch, SyncedLion
from mpisign.algorithms.formats import Format
from mpisign.algorithms.method import Algorithm
from mpisign.algorithms.registry import Beta, Count, Fraction, NonNegative, Positive, Whole, algorithm
from mpisign.algorithms.signs import ErrorFeedback, ScaledSign, Ternary
from mpisign.algorithms.slots import SignRule
from mpisign.algorithms.updates import Descent, RawDescent, Sgd
from mpisign.algorithms.votes import (
    Average,
    CompressedFeedback,
    CompressedMean,
    Mean,
    MemoryMean,
    ServerErrorFeedback,
    SignOfMean,
)
from mpisign.errors import UsageError

Norm = Literal["l2", "max"]
Spacing = Literal["linear", "powers", "exponents"]
Code = Literal["signs", "topk", "randk", "two-means", "levels"]


@algorithm(
    "qsgd",
    paper="Alistarh et al. 2017, arXiv:1610.02132, eq. 3.1; Horvath et al. 2019, arXiv:1905.10988, natural levels",
    lr=0.1,
    known=(
        "The rates of SGD with a variance (1 + omega)-fold, omega <= min(b/s^2, sqrt(b)/s) for s levels, buckets of b "
        "coordinates and the l2 norm; 1/8 for spacing exponents."
    ),
    sure="departs",
)
def qsgd(
    levels: Count = 7,
    bucket: Count = 512,
    norm: Norm = "l2",
    spacing: Spacing = "linear",
    down: Literal["floats", "levels"] = "floats",
    momentum: Beta = 0.9,
    weight_decay: NonNegative = 0.0,
):
    """Gradients rounded at random to s levels of a norm of each bucket, averaged: unbiased.

    levels is s: a coordinate takes ceil(log2(2s + 1)) bits (the paper's Elias code is not built in), a bucket one
    float32 more. spacing "powers" takes 2^-k of the norm for levels (natural dithering), "exponents" the powers of two
    next to a value, 9 bits without a norm (natural compression). down "levels" quantises the mean again, unbiased too.
    """
    form = _levels(levels, bucket, norm, spacing)
    vote = Mean() if down == "floats" else CompressedMean(form)
    return Algorithm(Minibatch(), Compressed(form), vote, Sgd(momentum, weight_decay))


def _levels(levels, bucket, norm, spacing) -> Levels:
    return Levels(255, 4096, "max", spacing) if spacing == "exponents" else Levels(levels, bucket, norm, spacing)


@algorithm(
    "terngrad",
    paper="Wen et al. 2017, arXiv:1705.07878, alg. 1",
    lr=0.1,
    known="Almost sure convergence under a bound on gradients that grows with their largest coordinate.",
    sure="departs",
)
def terngrad(clip: NonNegative = 2.5, momentum: Beta = 0.9, weight_decay: NonNegative = 0.0):
    """s*sign(g)*b with b = 1 with probability |g|/s, averaged; s the largest |g| of each tensor over all ranks.

    clip: g is clipped to so many of its standard deviations in each tensor first; 0 for never. One float per tensor is
    shared beside two planes up and the integer sum down. The paper leaves its last layer in floats: dense.parameters.
    """
    return Algorithm(Minibatch(), Ternary(clip), Average(), Sgd(momentum, weight_decay))


@algorithm(
    "onebit-sgd",
    paper="Seide et al. 2014, Interspeech, sec. 3; buckets for columns as in arXiv:1610.02132, sec. 5",
    lr=0.03,
    known="No proof of its own; error feedback in the sense of Karimireddy et al. 2019.",
    sure="departs",
)
def onebit_sgd(bucket: Count = 512, momentum: Beta = 0.9, weight_decay: NonNegative = 0.0):
    """One bit per coordinate, decoded as the mean of its side of 0 in its bucket, with error feedback on both sides.

    The paper has two means per column of a matrix; a bucket of contiguous coordinates stands for a column here, so that
    thin tensors cost no more (QSGD's authors did the same). Residuals are in units of the gradient.
    """
    form = TwoMeans(bucket)
    sign = ErrorFeedback(Compressed(form), in_x=False)
    return Algorithm(Minibatch(), sign, CompressedFeedback(form, in_x=False), Sgd(momentum, weight_decay))


@algorithm(
    "diana",
    paper="Mishchenko et al. 2019, arXiv:1901.09269, alg. 1",
    lr=0.1,
    known=(
        "Linear convergence for strongly convex functions and full gradients, whatever the voters' data: memories "
        "learn the local gradients. alpha <= 1/(1 + omega)."
    ),
    sure="reconstructed",
    heterogeneous="proved",
)
def diana(
    levels: Count = 1,
    bucket: Count = 512,
    norm: Norm = "max",
    alpha: Fraction | None = None,
    momentum: Beta = 0.0,
    weight_decay: NonNegative = 0.0,
):
    """Quantised differences between gradients and memories of them, which are kept on both sides.

    Sends Q(g - h), h += alpha*Q on each rank; the mean gradient is h + mean of Q, of which h follows alike. Q as in
    qsgd; one level of the max norm is the paper's ternary form. alpha: left out, 1/(1 + omega) of Q. Details of this
    paper are reconstructed: momentum is applied to the mean.
    """
    form = Levels(levels, bucket, norm)
    rate = 1 / (1 + form.omega()) if alpha is None else alpha
    sign = Memory(Compressed(form), rate)
    return Algorithm(Minibatch(), sign, MemoryMean(rate), Sgd(momentum, weight_decay))


@algorithm(
    "ef21",
    paper="Richtarik, Sokolov & Fatkhullin 2021, arXiv:2106.05203, alg. 2",
    lr=0.1,
    known="O(1/T) for full gradients whatever the voters' data, without a bound on their unlikeness.",
    sure="stated",
    heterogeneous="proved",
)
def ef21(code: Code = "topk", density: Fraction = 0.01, momentum: Beta = 0.0, weight_decay: NonNegative = 0.0):
    """Codes of differences between gradients and memories, added to both: error feedback without residuals.

    Sends C(g - h), h += C on each rank; x moves along the mean of all h. C: the largest coordinates of each tile
    ("topk"), the same random ones on all ranks ("randk"), scaled signs, or two means; not "levels", which do not
    contract.
    """
    if code == "levels":
        raise UsageError(
            "algorithm.code = 'levels': EF21 needs a code that contracts; take signs, topk, randk or two-means"
        )
    return Algorithm(Minibatch(), Memory(_rule(code, density)), MemoryMean(), Sgd(momentum, weight_decay))


@algorithm(
    "doublesqueeze",
    paper="Tang et al. 2019, arXiv:1905.05957, alg. 1",
    lr=0.1,
    known="The rate of SGD plus terms of the codes' errors of higher order.",
    sure="stated",
)
def doublesqueeze(up: Code = "signs", down: Code = "signs", density: Fraction = 0.01, weight_decay: NonNegative = 0.0):
    """Codes with error feedback on each rank and where messages are counted, any code up and any down.

    p = g + e, sends C(p), e = p - C(p) on each rank, and the same of the mean. signs both ways is dist-ef-signsgd
    without momentum, whose residuals are in units of x: the same bits where lr is a power of two and constant (a test),
    the same up to rounding at any other constant lr. "levels" of the l2 norm need not contract: the paper's theory
    bounds a code's error, which residuals may outgrow here.
    """
    sign = ErrorFeedback(_rule(up, density), in_x=False)
    if down == "signs":
        return Algorithm(Minibatch(), sign, ServerErrorFeedback(in_x=False), Descent(weight_decay))
    vote = CompressedFeedback(_form(down, density), in_x=False)
    return Algorithm(Minibatch(), sign, vote, RawDescent(weight_decay))


@algorithm(
    "lion-cub",
    paper="Ishikawa et al. 2024, arXiv:2411.16462, Lion Cub",
    lr=1e-4,
    known=(
        "No proof is known to us. By its abstract majority votes alone converge less well, and are no faster. A tensor "
        "of one coordinate sends its sign alone here, and goes to the voters' median where their rows are unlike."
    ),
    sure="reconstructed",
    heterogeneous="refuted",
)
def lion_cub(
    bits: Annotated[int, Field(ge=2, le=9)] = 4,
    resolution: Positive = 1.0,
    sync_every: Whole = 100,
    synced: Literal["all", "vectors"] = "all",
    beta1: Beta = 0.9,
    beta2: Beta = 0.99,
    weight_decay: NonNegative = 0.0,
):
    """Distributed Lion whose votes are whole numbers of `bits` bits, with momenta averaged now and then.

    c = beta1*m + (1 - beta1)*g on each rank, m = beta2*m + (1 - beta2)*g; sends q, which is resolution*c over the mean
    of |c| of its tensor, rounded at random and cut off at 2^(bits - 1) - 1; x -= lr*(sign(sum of q) + weight_decay*x).
    After every sync_every steps m becomes the mean of all ranks' m, as floats; 0 for never. synced: whether that is of
    all parameters, or of those with less than two dimensions. One bit is dlion-mavo. Only the abstract and the start of
    the paper were read. Details of this paper are reconstructed: the units by the L1 norm, which each rank takes of its
    own c, the rounding, one bit down, and when which momenta are averaged (it selects them); its order of messages,
    which is what its speed is about, is that of any exchange here.
    """
    estimator = SyncedLion(beta1, beta2, every=sync_every, vectors_only=synced == "vectors")
    sign = InMeans(WholeNumbers(2 ** (bits - 1) - 1), resolution)
    return Algorithm(estimator if sync_every else Lion(beta1, beta2), sign, SignOfMean(), Descent(weight_decay))


def _rule(code: Code, density: float) -> SignRule:
    return ScaledSign() if code == "signs" else Compressed(_form(code, density))


def _form(code: Code, density: float) -> Format:
    forms = {"topk": Largest(density), "randk": Chosen(density), "two-means": TwoMeans(), "levels": Levels()}
    return forms[code]
