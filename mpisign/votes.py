"""What the messages decide. A tie is a tally of exactly zero.

Rules for ties: "coin", a fair coin that is negated at the next step; "zero", the mathematics, which needs a
second plane on the way down; "plus", +1, which is biased and can diverge.
"""

from dataclasses import dataclass

import numpy as np

from mpisign import bits
from mpisign.algorithm import Vote
from mpisign.messages import RAW, Format
from mpisign.world import ordered_sum

SIGNS = np.array([-1.0, 1.0])
SIGNS_OR_ZERO = np.array([0.0, 0.0, -1.0, 1.0])  # code = sign + 2 * (not zero)


@dataclass(frozen=True)
class Majority(Vote):
    """sign(tally) [Bernstein et al. 2018 alg. 3]."""

    ties: str = "coin"

    def down(self, up, voters):
        return Format(planes=2 if self.ties == "zero" else 1)

    def levels(self, up, voters):
        return SIGNS_OR_ZERO if self.ties == "zero" else SIGNS

    def verdict(self, ballots, scales, state, out, step):
        t = ballots.tally
        bits.majority(t.plus, t.minus, t.voters, ballots.lo, self.ties, step.coin("tie"), out)


@dataclass(frozen=True)
class RandomisedMajority(Vote):
    """+1 with probability (1 + tally/n)/2, drawn once for everybody: unbiased for the mean of the signs."""

    def down(self, up, voters):
        return Format(planes=1)

    def levels(self, up, voters):
        return SIGNS

    def verdict(self, ballots, scales, state, out, step):
        t = ballots.tally
        bits.randomised_majority(t.plus, t.minus, t.voters, ballots.lo, step.draw("server"), out)


@dataclass(frozen=True)
class Average(Vote):
    """tally/n, exactly: ceil(log2(n+1)) bits down, one more where voters may abstain."""

    def down(self, up, voters):
        return Format(planes=bits.width(voters) + (up.planes - 1))

    def levels(self, up, voters):
        codes = np.arange(2 ** self.down(up, voters).planes)
        if up.planes == 1:
            return (2 * codes - voters) / voters
        return (codes - (2 ** bits.width(voters) - 1)) / voters

    def verdict(self, ballots, scales, state, out, step):
        t = ballots.tally
        bits.codes(t.plus, t.minus, t.voters, out)


@dataclass(frozen=True)
class ServerErrorFeedback(Vote):
    """p = mean of the scaled signs + e; decides (|p_b|_1/d_b) * sign(p_b) for each tensor b; e = p - that.

    [Zheng et al. 2019 alg. 2, block-wise.] The residual e, in units of x, lies with whoever counts.
    """

    ties: str = "coin"
    needs_ballots = True
    shares = True

    def down(self, up, voters):
        return Format(planes=2 if self.ties == "zero" else 1, scaled=True)

    def levels(self, up, voters):
        return SIGNS_OR_ZERO if self.ties == "zero" else SIGNS

    def init(self, layout, owned):
        return {"residual": RAW.empty(coordinates=owned)[0]}

    def _spans(self, ballots, state, step):
        """Each span of the stretch with its words and its part of the residual."""
        offset = ballots.at - ballots.lo
        for span in step.layout.spans(ballots.lo, ballots.hi):
            yield span, span.words(ballots.lo), state["residual"][span.lo + offset : span.hi + offset]

    def absorb(self, ballots, state, step):
        for span, words, e in self._spans(ballots, state, step):
            # p = (sum of scale*sign in voter order) / n + e
            total = e.new_zeros(len(e))
            for voter in range(ballots.voters):
                bits.add_signed(total, ballots.planes[:, voter, words], ballots.scales[voter, span.segment])
            total /= ballots.voters
            e += total

    def shared(self, ballots, state, step):
        tiles = step.layout.tiles(ballots.lo, ballots.hi)
        shift = np.array([[ballots.at - ballots.lo]] * 2 + [[0]])
        return bits.tile_sums(state["residual"], tiles + shift)

    def scales(self, shared, layout):
        return layout.mean_magnitudes(shared)

    def verdict(self, ballots, scales, state, out, step):
        zeros = "abstain" if self.ties == "zero" else self.ties
        for span, words, p in self._spans(ballots, state, step):
            bits.pack(p, span.lo, zeros, step.coin("tie"), out[:, words])
            bits.add_signed(p, out[:, words], -scales[span.segment])


@dataclass(frozen=True)
class Mean(Vote):
    """The mean of raw floats, summed in voter order: for baselines."""

    def down(self, up, voters):
        return RAW

    def verdict(self, ballots, scales, state, out, step):
        out[0].copy_(ordered_sum(ballots.planes[0]))
        out[0] /= ballots.voters
