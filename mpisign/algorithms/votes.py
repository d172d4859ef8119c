"""What the messages decide. A tie is a tally of exactly zero.

Rules for ties: "coin", a fair coin negated at the next step; "random", a new coin every step; "zero", the mathematics,
with a second plane down; "plus", +1 (code of 2019), and "minus", -1 (Distributed Lion's): biased, they can diverge.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from mpisign import bits
from mpisign.algorithms.compressors import BlockSigns
from mpisign.algorithms.formats import RAW, Format, Planes
from mpisign.algorithms.slots import LEVELS, Vote
from mpisign.layout import WORD, Span


class _Signs(Vote):
    """Decides a sign per coordinate, or none where it is tied and the rule is "zero"."""

    ties: str

    @property
    def rules(self):
        return {"ties": self.ties}

    def with_ties(self, rule):
        return replace(self, ties=rule)

    def down(self, up, votes):
        return Planes(planes=2 if self.ties == "zero" else 1)

    def _pack(self, values, span, out, step):
        """The signs of values, 0 being a tie."""
        zeros = "abstain" if self.ties == "zero" else self.ties
        bits.pack(values, span.lo, zeros, step.coin("tie", self.ties), out)


@dataclass(frozen=True)
class Majority(_Signs):
    """sign(tally) [Bernstein et al. 2018 alg. 3]."""

    ties: str = "coin"

    weighable = True

    def verdict(self, ballots, scales, state, out, step):
        if ballots.voters == 1 and ballots.planes is not None and out.shape[0] == ballots.planes.shape[0]:
            out.copy_(ballots.planes[:, 0])  # the only vote, or none where there is none
            if ballots.counting and not ballots.weights:
                whole = WORD * out.shape[1]
                cast = bits.count_ones(out[1]) if out.shape[0] > 1 else whole
                ballots.statistics = cast, whole - cast
            return
        coin = step.coin("tie", self.ties)
        if ballots.plain:
            arguments = ballots.planes[0], ballots.lo, self.ties, coin, out, ballots.counting
            found = bits.majority_of_ballots(*arguments)
            ballots.statistics = found if ballots.counting else None
            return
        t = ballots.tally
        ballots.statistics = bits.majority(t.plus, t.minus, t.votes, ballots.lo, self.ties, coin, out)


@dataclass(frozen=True)
class PresentMajority(Vote):
    """The sign of the tally of those who sent one; none where nobody did, or where it is tied."""

    weighable = True

    def down(self, up, votes):
        return Planes(2)

    def verdict(self, ballots, scales, state, out, step):
        t = ballots.tally
        ballots.statistics = bits.majority(t.plus, t.minus, t.votes, ballots.lo, "zero", step.coin("tie"), out)


@dataclass(frozen=True)
class BlockMajority(Vote):
    """The majority of the signs of a block of coordinates, a new coin where it is tied; x stays in all other blocks."""

    form: BlockSigns

    weighable = True

    def down(self, up, votes):
        return self.form

    def levels(self, up, votes):
        return LEVELS[2]  # of the signs, and of where there are any, that the message comes to

    def verdict(self, ballots, scales, state, out, step):
        t = ballots.tally
        signs = ballots.scratch("block", 1, t.plus.shape[1])
        coin = step.coin("tie", "random")
        ballots.statistics = bits.majority(t.plus, t.minus, t.votes, ballots.lo, "random", coin, signs)
        self.form.take(signs[0], out, step)


@dataclass(frozen=True)
class RandomisedMajority(Vote):
    """+1 with probability (1 + tally/n)/2, drawn once for everybody: unbiased for the mean of the signs."""

    weighable = True

    def down(self, up, votes):
        return Planes(planes=1)

    def verdict(self, ballots, scales, state, out, step):
        t = ballots.tally
        bits.randomised_majority(t.plus, t.minus, t.votes, ballots.lo, step.draw("server"), out)


@dataclass(frozen=True)
class Average(Vote):
    """tally/n, exactly: ceil(log2(n+1)) bits down, one more where voters may abstain."""

    weighable = True

    def down(self, up, votes):
        return Planes(planes=bits.width(votes) + (up.planes - 1))

    def levels(self, up, votes):
        codes = np.arange(2 ** self.down(up, votes).planes)
        if up.planes == 1:
            return (2 * codes - votes) / votes
        return (codes - (2 ** bits.width(votes) - 1)) / votes

    def verdict(self, ballots, scales, state, out, step):
        t = ballots.tally
        bits.codes(t.plus, t.minus, t.votes, out)


@dataclass(frozen=True)
class LearnedWeights(_Signs):
    """sign(sum of w*sign), with integer weights per voter and coordinate, learned from past agreement.

    p = fraction of past rounds in which the voter agreed with what was decided, w = round(resolution*log(p/(1-p))),
    |w| <= resolution*limit; all weights are 1 for the first `plain` rounds. forget: factor on the past at each round.
    negative: whether weights may fall below 0. Keeps one float32 per voter and coordinate where it is counted.
    """

    plain: int = 100
    resolution: int = 4
    limit: float = 10.0
    forget: float = 1.0
    negative: bool = True
    ties: str = "coin"

    needs_ballots = True
    stateful = True
    bound = "what each voter's past agreement weighs, and new voters have no past"

    def init(self, layout, owned, voters):
        return {"score": torch.zeros(voters, owned)}

    def verdict(self, ballots, scales, state, out, step):
        score = state["score"][:, ballots.offset : ballots.offset + ballots.hi - ballots.lo]
        rounds = step.age if self.forget == 1 else (1 - self.forget**step.age) / (1 - self.forget)
        most = self.resolution * self.limit
        rule = (step.age < max(self.plain, 1), self.resolution, most, -most if self.negative else 0.0, self.forget)
        bits.weighted_majority(
            ballots.planes, score, rounds, rule, ballots.lo, self.ties, step.coin("tie", self.ties), out
        )


class _Residual(Vote):
    """Keeps one float32 for each coordinate that this rank counts, and walks along it span by span."""

    stateful = True
    array = "residual"

    def init(self, layout, owned, voters):
        return {self.array: RAW.empty(coordinates=owned)[0]}

    def _spans(self, ballots, state, step):
        """Each span of the shard with its words and its part of the array."""
        offset = ballots.offset - ballots.lo
        for span in step.layout.spans(ballots.lo, ballots.hi):
            yield span, span.words(ballots.lo), state[self.array][span.lo + offset : span.hi + offset]

    def _tiles(self, ballots, step):
        shift = np.array([[ballots.offset - ballots.lo]] * 2 + [[0]])
        return step.layout.tiles(ballots.lo, ballots.hi) + shift


@dataclass(frozen=True)
class SignErrorFeedback(_Residual, _Signs):
    """p = tally/n + e; decides sign(p); e = p - factor*sign(p), factor 1/n if it is 0."""

    factor: float = 0.0
    ties: str = "coin"

    def verdict(self, ballots, scales, state, out, step):
        t, n, average = ballots.tally, ballots.voters, Average()
        up = Planes(planes=1 if t.minus is None else 2)
        codes = ballots.scratch("codes", average.down(up, n).planes, t.plus.shape[1])
        bits.codes(t.plus, t.minus, n, codes)
        table = average.levels(up, n).astype(np.float32)
        for span, words, p in self._spans(ballots, state, step):
            bits.add_levels(p, codes[:, words], table)
            self._pack(p, span, out[:, words], step)
            bits.add_signed(p, out[:, words], -(self.factor or 1 / n))


@dataclass(frozen=True)
class ServerErrorFeedback(_Residual, _Signs):
    """p = mean of the scaled signs + e; decides (|p_b|_1/d_b) * sign(p_b) for each tensor b; e = p - that.

    [Zheng et al. 2019 alg. 2, block-wise.] The residual e, in the units of the messages, lies with whoever
    counts. in_x: whether those are units of x.
    """

    in_x: bool = True
    ties: str = "coin"

    needs_ballots = True
    shares = True

    def down(self, up, votes):
        return replace(super().down(up, votes), scaled=True)

    def absorb(self, ballots, state, step):
        for span, _, e in self._spans(ballots, state, step):
            e += ballots.mean(span)

    def shared(self, ballots, state, step):
        return bits.tile_sums(state[self.array], self._tiles(ballots, step))

    def scales(self, tiles, layout):
        return layout.mean_magnitudes(tiles)

    def verdict(self, ballots, scales, state, out, step):
        for span, words, p in self._spans(ballots, state, step):
            self._pack(p, span, out[:, words], step)
            bits.add_signed(p, out[:, words], -scales[span.segment])


class _Tracking(_Residual):
    """Keeps z, an estimate of the mean gradient: z = (1 - beta)*z + weight * mean of what came in.

    start = True is for the first steps, all at one point: z is then the plain mean of all messages so far.
    """

    array = "z"
    needs_ballots = True

    def absorb(self, ballots, state, step):
        keep, weight = (step.age / (step.age + 1), 1 / (step.age + 1)) if self.start else (1 - self.beta, 1.0)
        for span, _, z in self._spans(ballots, state, step):
            bits.blend(z, ballots.mean(span), keep, weight)


@dataclass(frozen=True)
class TrackedSign(_Tracking, _Signs):
    """Decides sign(z) [Jiang et al. 2026, DVR-Sign]."""

    beta: float = 0.5
    start: bool = False
    ties: str = "coin"

    def verdict(self, ballots, scales, state, out, step):
        for span, words, z in self._spans(ballots, state, step):
            self._pack(z, span, out[:, words], step)


@dataclass(frozen=True)
class TrackedQuantised(_Tracking):
    """Decides R_b * (stochastic sign of z_b with radius R_b), R_b = max |z_b| of each tensor b [DVR-Q]."""

    beta: float = 0.5
    start: bool = False

    shares = True

    def down(self, up, votes):
        return Planes(planes=1, scaled=True)

    def shared(self, ballots, state, step):
        return bits.tile_maxima(state[self.array], self._tiles(ballots, step))

    def scales(self, tiles, layout):
        return layout.largest_magnitudes(tiles)

    def verdict(self, ballots, scales, state, out, step):
        for span, words, z in self._spans(ballots, state, step):
            bits.pack_stochastic(z, float(scales[span.segment]), span.lo, step.draw("server"), out[:, words])


@dataclass(frozen=True)
class Mean(Vote):
    """The mean of raw floats or of codes, summed in voter order."""

    def down(self, up, votes):
        return RAW

    def verdict(self, ballots, scales, state, out, step):
        ballots.mean(Span(ballots.lo, ballots.hi, 0), out[0])


@dataclass(frozen=True)
class ScaledMean(Vote):
    """The mean of scaled signs, summed in voter order: 32 bits per coordinate down, unless everyone counts.

    in_x: whether the scales are in units of x, the learning rate included.
    """

    in_x: bool = True

    needs_ballots = True

    def down(self, up, votes):
        return RAW

    def verdict(self, ballots, scales, state, out, step):
        for span in step.layout.spans(ballots.lo, ballots.hi):
            ballots.mean(span, out[0, span.items(ballots.lo)])


@dataclass(frozen=True)
class CompressedMean(Vote):
    """The mean of what was sent, as a code."""

    form: Format

    needs_ballots = True

    def down(self, up, votes):
        return self.form

    def verdict(self, ballots, scales, state, out, step):
        mean = ballots.mean(Span(ballots.lo, ballots.hi, 0))
        self.form.encode(mean, ballots.lo, step.draw("server"), out, step)


@dataclass(frozen=True)
class CompressedFeedback(_Residual):
    """p = mean of what was sent + e; decides the code of p; e = p - what the code says [Tang et al. 2019 alg. 1].

    The residual e, in the units of the messages, lies with whoever counts. in_x: whether those are units of x.
    """

    form: Format
    in_x: bool = True

    needs_ballots = True

    def down(self, up, votes):
        return self.form

    def verdict(self, ballots, scales, state, out, step):
        p = state[self.array][ballots.offset : ballots.offset + ballots.hi - ballots.lo]
        for span, _, e in self._spans(ballots, state, step):
            e += ballots.mean(span)
        self.form.encode(p, ballots.lo, step.draw("server"), out, step)
        self.form.add(out, p, ballots.lo, step, -1.0)


@dataclass(frozen=True)
class MemoryMean(_Residual):
    """h + the mean of what was sent; h += alpha * that mean: what Memory of all voters comes to."""

    alpha: float = 1.0

    array = "memory"
    needs_ballots = True
    bound = "the mean of what each voter remembers, and that of other voters is another"

    def down(self, up, votes):
        return RAW

    def verdict(self, ballots, scales, state, out, step):
        out[0].zero_()
        for span, _, h in self._spans(ballots, state, step):
            decided, mean = out[0, span.items(ballots.lo)], ballots.mean(span)
            torch.add(h, mean, out=decided)
            bits.blend(h, mean, 1.0, self.alpha)


@dataclass(frozen=True)
class Unanimous(Vote):
    """What this rank holds, which is what all others hold."""

    needs_ballots = True

    def down(self, up, votes):
        return up

    def verdict(self, ballots, scales, state, out, step):
        out[0].copy_(ballots.planes[0, 0])


@dataclass(frozen=True)
class SignOfMean(_Signs):
    """The sign of the mean of codes; where they are whole numbers it is that of their sum, exactly."""

    ties: str = "coin"

    needs_ballots = True

    def verdict(self, ballots, scales, state, out, step):
        whole = Span(ballots.lo, ballots.hi, 0)
        self._pack(ballots.mean(whole), whole, out, step)


@dataclass(frozen=True)
class Median(Vote):
    """The median of raw floats in each coordinate; of the two in the middle, their mean."""

    needs_ballots = True

    def down(self, up, votes):
        return RAW

    def verdict(self, ballots, scales, state, out, step):
        ordered, n = ballots.planes[0].sort(dim=0).values, ballots.voters
        out[0].copy_(ordered[(n - 1) // 2]).add_(ordered[n // 2]).mul_(0.5)
