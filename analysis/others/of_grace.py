"""GRACE (Xu et al. 2021, github.com/sands-lab/grace): its compressors and memories, put together as it does."""

import importlib
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from sides import TILE, Row, balanced, difference, mean, normal, ours, statistics, theirs
from torch import Tensor

SHARE = 1 / 64  # of coordinates that a sparse message keeps
REPEATS = 2000  # draws of a statistical comparison
DEVIATION = 4.5  # standard errors between two means of 512 that one in 300 comparisons passes
VARIANCE = 0.05  # by which the ratio of two total variances may miss 1
FIRST = "leaves lr out at the first step, unless its memory starts with a residual of 0, as here"


def rows() -> Iterator[Row]:
    for compare in (_levels, _two_means, _scaled_signs, _votes, _sparse, _own_draws):
        for method, file, inputs, found, note, *more in compare():
            yield Row(method, f"GRACE, {file}", inputs, found, note, *more)


def _get(path: str) -> type:
    """The class that a file of theirs defines, the first of them where there are several."""
    module = importlib.import_module(f"grace_dl.{path}")
    (found,) = (
        v for k, v in vars(module).items() if k.endswith(("Compressor", "Memory")) and v.__module__ == module.__name__
    )
    return found


class Coder:
    """A compressor and a memory, as a communicator of theirs puts them together."""

    def __init__(self, compressor, memory=None):
        self.compressor, self.memory = compressor, memory or _get("torch.memory.none")()

    def __call__(self, gradient: Tensor) -> Tensor:
        v = self.memory.compensate(gradient.clone(), "x")
        code, how = self.compressor.compress(v, "x")
        self.memory.update(v, "x", self.compressor, code, how)
        return self.compressor.decompress(code, how)


def _feedback(compressor, memory="residual", **hyper) -> Coder:
    """A coder with a residual of 0 at first."""
    memory = _get(f"torch.memory.{memory}")(**hyper)
    memory.residuals["x"] = torch.zeros(())
    return Coder(compressor, memory)


def _both_ways(make: Callable[[], Coder]) -> Callable[[list[Tensor]], Tensor]:
    """The mean, coded again where messages are counted."""
    server = make()
    return lambda decoded: server(mean(decoded))


def _levels():
    qsgd, buckets = _get("torch.compressor.qsgd"), partial(_get("dist.compressor.qsgd"), bucket_size=512)
    whole, tiles, silent = normal(TILE), normal(3 * TILE), normal(3 * TILE)
    silent[..., 512:1024] = 0
    for s in (1, 7, 64):
        mine = ours("qsgd", whole, levels=s, bucket=TILE, momentum=0.0)
        found = difference(mine, theirs(lambda s=s: Coder(qsgd(s)), whole))
        yield "qsgd", "torch qsgd", f"our draws, s = {s}, one bucket of {TILE}", found, ""
    zeros = "0/0 there; their cast of NaN to int16, which C++ leaves undefined, makes 0 on a CPU"
    for inputs, gradients, note in (("", tiles, ""), (", of which one of zeros", silent, zeros)):
        mine = ours("qsgd", gradients, levels=7, bucket=512, momentum=0.0)
        found = difference(mine, theirs(lambda: Coder(buckets(7)), gradients))
        yield "qsgd", "dist qsgd", f"our draws, s = 7, 24 buckets of 512{inputs}", found, note

    natural = _get("torch.compressor.natural")
    found = difference(ours("qsgd", whole, spacing="exponents", momentum=0.0), theirs(lambda: Coder(natural()), whole))
    note = (
        "numpy for cupy; 7 bits of an exponent are kept (2^-108 to 2^18), 8 in ours; goes up at m/(2^23 - 1) for m/2^23"
    )
    yield "qsgd, exponents", "torch natural", "our draws", found, note

    terngrad, same = _get("dist.compressor.terngrad"), balanced(TILE)
    found = difference(ours("terngrad", same, momentum=0.0), theirs(lambda: Coder(terngrad()), same))
    note = "a scale per rank, where the paper has one for all: here all ranks have the same largest value"
    yield "terngrad", "dist terngrad", "our draws, mean 0, clipped at 2.5 deviations", found, note


def _two_means():
    whole, lr = normal(TILE), 0.5
    coder = lambda: _feedback(_get("torch.compressor.onebit")())  # noqa: E731
    mine = ours("onebit-sgd", whole, lr, bucket=TILE, momentum=0.0)
    found = difference(mine, theirs(coder, whole, lr, _both_ways(coder)))
    note = "its compressor and memory code the mean again, as the paper does"
    yield "onebit-sgd", "torch onebit", f"one bucket of {TILE}, residuals both ways", found, note


def _some_zeros() -> Tensor:
    gradients = normal(TILE)
    gradients[..., :64] = 0
    return gradients


def _scaled_signs():
    gradients, lr, compressor = _some_zeros(), 0.125, partial(_get("torch.compressor.efsignsgd"), lr=1.0)
    inputs, rules = "64 zeros among them, sign(0) = +1", {"zeros": "plus", "ties": "plus"}
    own = theirs(lambda: _feedback(compressor(), "efsignsgd", lr=lr), gradients)
    note = f"{FIRST}; adds ranks up, where ours averages: averaged here"
    yield (
        "ef-signsgd",
        "torch efsignsgd",
        inputs,
        difference(ours("ef-signsgd", gradients, lr, zeros="plus"), own),
        note,
    )
    for method, scale in (("dist-ef-signsgd", {"gamma": lr}), ("doublesqueeze", {})):
        server = _both_ways(lambda: _feedback(compressor()))
        own = theirs(lambda scale=scale: _feedback(compressor(), **scale), gradients, 1.0 if scale else lr, server)
        found = difference(ours(method, gradients, lr, **rules), own)
        yield method, "torch efsignsgd", inputs, found, "its compressor and memory code the mean again"


def _votes():
    gradients, lr, rules = _some_zeros(), 0.125, {"zeros": "plus", "ties": "plus"}
    sign, signum = _get("torch.compressor.signsgd"), _get("torch.compressor.signum")
    own = theirs(lambda: Coder(sign()), gradients, lr, sign().aggregate)
    inputs = "64 zeros among them and ties, both +1"
    yield "signsgd-mv", "torch signsgd", inputs, difference(ours("signsgd-mv", gradients, lr, **rules), own), ""

    def averaging():
        compressor = signum(0.9)
        compressor.momentums["x"] = torch.zeros(TILE)
        return Coder(compressor)

    own = theirs(averaging, gradients, lr, signum(0.9).aggregate)
    note = "its average starts as the first gradient, the paper's as 0: here as 0"
    yield "signum-mv", "torch signum", inputs, difference(ours("signum-mv", gradients, lr, **rules), own), note


def _sparse():
    topk, randk = (partial(_get(f"torch.compressor.{name}"), compress_ratio=SHARE) for name in ("topk", "randomk"))
    lr, whole = 0.5, normal(TILE)
    for select, gradients in (("tile", whole), ("all", normal(3 * TILE))):
        own = theirs(lambda: _feedback(topk(), gamma=lr), gradients)
        size = gradients.shape[-1]
        found = difference(ours("topk", gradients, lr, density=SHARE, select=select), own)
        yield f"topk, {select}", "torch topk", f"{int(SHARE * size)} of {size}, residuals", found, FIRST
    own = theirs(lambda: _feedback(randk(), gamma=lr), whole)
    found = difference(ours("randk", whole, lr, density=SHARE), own)
    yield "randk", "torch randomk", "our choice, 64 of 4096, residuals", found, FIRST
    own = theirs(lambda: Coder(randk()), whole, lr / SHARE)
    found = difference(ours("randk", whole, lr, density=SHARE, feedback=False), own)
    note = "biased, since nothing divides by the density: times 64 here"
    yield "randk, unbiased", "torch randomk", "our choice, 64 of 4096", found, note


def _own_draws():
    """Means and variances, where each side draws for itself."""
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - what stands in for cupy draws from it
    qsgd, terngrad = partial(_get("torch.compressor.qsgd"), 7), _get("dist.compressor.terngrad")
    randk, natural = partial(_get("torch.compressor.randomk"), 1 / 8), _get("torch.compressor.natural")
    ranks = balanced(512, steps=1).expand(REPEATS, -1, -1)
    alone, unlike = ranks[:, :1], ranks * torch.tensor([1.0, 2.0, 4.0, 8.0])[:, None]
    linear, powers = {"levels": 7, "momentum": 0.0}, {"spacing": "exponents", "momentum": 0.0}
    unbiased, plain = {"density": 1 / 8, "feedback": False}, {"momentum": 0.0}
    cases = (
        ("qsgd", "torch qsgd", ours("qsgd", alone, **linear), alone, qsgd, 1.0),
        ("qsgd, exponents", "torch natural", ours("qsgd", alone, **powers), alone, natural, 1.0),
        ("terngrad", "dist terngrad", ours("terngrad", alone, **plain), alone, terngrad, 1.0),
        ("randk, unbiased", "torch randomk", ours("randk", alone, **unbiased), alone, randk, 8.0),
    )
    inputs = f"{REPEATS} draws of each side's own, 512 coordinates"
    for method, file, mine, gradients, make, lr in cases:
        deviation, ratio = statistics(mine, theirs(lambda make=make: Coder(make()), gradients, lr, own_draws=True))
        found = max(deviation / DEVIATION, abs(ratio - 1) / VARIANCE)
        yield (
            method,
            file,
            inputs,
            found,
            "",
            1.0,
            f"means {deviation:.1f} standard errors apart, variances {ratio:.3f} : 1",
        )
    own = theirs(lambda: Coder(terngrad()), unlike, own_draws=True)
    deviation, ratio = statistics(ours("terngrad", unlike, **plain), own)
    told = f"means {deviation:.1f} standard errors apart, variances {ratio:.2f} : 1"
    note = "a scale per rank has less variance than one for all, with which tallies are integers"
    yield "terngrad", "dist terngrad", f"{inputs}, ranks as 1 : 2 : 4 : 8", deviation / DEVIATION, note, 1.0, told
