"""Estimates of a gradient; `run` is the Reference, `voter` whose estimate it is."""

import math

import numpy as np

from mpisign.bits.rng import NO_VOTER
from tests.reference.arithmetic import cosines_of_each, doubling, norm, polar_of_each, tiled

F = np.float32


class Slot:
    told = ()  # numbers for the updates

    def begin(self):
        pass

    def observe(self, levels, scales, in_x):
        pass

    def agree(self, estimates, voters):
        """The estimates of all voters (slots like this one) once they have agreed; asked of the first voter's."""
        return estimates

    def gradient(self, x=None, t=None):
        return self.run.oracle.gradient(self.voter, self.run.t if t is None else t, self.run.x if x is None else x)

    def total(self, v):
        """Sum of v in float64, tile by tile: of the positive values, less that of the others."""
        zero, sums = F(0), []
        for offset, size in self.run.tensors:
            above, below = (tiled(np.maximum(part, zero), offset, size, 1) for part in (v, -v))
            sums.append(above - below)
        return sum(sums)


class Minibatch(Slot):
    def estimate(self):
        return self.gradient()


class FullGradient(Slot):
    def estimate(self):
        return self.run.oracle.full(self.voter, self.run.t, self.run.x)


class GrowingBatch(Slot):
    def estimate(self):
        t, v = self.run.t, self.run.zeros()
        batches = [1 + k // self.every for k in range(t + 1)]
        for k in range(batches[t]):
            v = v + F(1 / batches[t]) * self.gradient(t=sum(batches[:t]) + k)
        return v


class ProximalMap(Slot):
    """(x - prox(x - lr*g))/lr coordinate by coordinate, as its cases: cut to 0, at the box, or free."""

    def estimate(self):
        run, g, v = self.run, self.gradient(), self.run.zeros()
        lr = run.lr
        for i in run.coordinates:
            w, cut = run.x[i] - F(lr) * g[i], F(lr * self.l1)
            prox = w - cut if w > cut else w + cut if w < -cut else F(0)
            if self.box and abs(prox) >= F(self.box):
                v[i] = (run.x[i] - np.sign(prox) * F(self.box)) * F(1 / lr)
            elif prox == 0:
                v[i] = run.x[i] * F(1 / lr)
            else:
                v[i] = g[i] + np.sign(prox) * F(self.l1)
        return v


class ClippedRows(Slot):
    def estimate(self):
        return self.run.oracle.clipped(self.voter, self.run.t, self.run.x, self.norm)


class Momentum(Slot):
    def begin(self):
        from tests.reference import estimators

        self.m, self.inner = self.run.zeros(), self.run.slot(estimators, self.of, self.voter)

    def estimate(self):
        u = self.inner.estimate()
        if self.run.t == 0 and self.start == "estimate":
            self.m = u.copy()
        else:
            self.m = F(self.beta) * self.m + F(1 - self.beta) * u
        return self.m


class NormalisedMomentum(Slot):
    def begin(self):
        from tests.reference import estimators

        self.m, self.b = self.run.zeros(), self.run.zeros()
        self.inner = self.run.slot(estimators, self.of, self.voter)

    def estimate(self):
        u, v = self.inner.estimate(), self.run.zeros()
        self.m = F(self.beta) * self.m + F(1 - self.beta) * u
        self.b = F(self.beta) * self.b + F(1 - self.beta) * np.abs(u)
        for i in self.run.coordinates:
            if self.b[i]:
                v[i] = min(max(self.m[i] / self.b[i], F(-1)), F(1))
        return v


class Polar(Slot):
    def begin(self):
        from tests.reference import estimators

        self.inner = self.run.slot(estimators, self.of, self.voter)

    def estimate(self):
        return polar_of_each(self.inner.estimate(), self.run, self.kind)


class Cosine(Polar):
    def estimate(self):
        return cosines_of_each(self.inner.estimate(), self.run, self.chunk, inverse=False)


class Nesterov(Slot):
    def begin(self):
        self.m = self.run.zeros()

    def estimate(self):
        g = self.gradient()
        self.m = F(self.momentum) * self.m + g
        return F(self.momentum) * self.m + g


class Lion(Slot):
    def begin(self):
        from tests.reference import estimators

        self.m, self.inner = self.run.zeros(), self.run.slot(estimators, self.of, self.voter)

    def estimate(self):
        u = self.inner.estimate()
        c = F(self.beta1) * self.m + F(1 - self.beta1) * u
        self.m = F(self.beta2) * self.m + F(1 - self.beta2) * u
        return c


class SyncedLion(Lion):
    def agree(self, estimates, voters):
        if (self.run.t + 1) % self.every == 0:
            for (offset, size), shape in zip(self.run.tensors, self.run.shapes, strict=True):
                here, total = slice(offset, offset + size), np.zeros(size, dtype=F)
                for voter in voters:
                    total = total + voter.m[here]
                for voter in voters:
                    if not self.vectors_only or len(shape) < 2:
                        voter.m[here] = total / F(len(voters))
        return estimates


class LionStorm(Slot):
    def estimate(self):
        g = self.gradient()
        if self.run.t == 0:
            self.m = g
            return g
        before = self.gradient(self.run.x_before)
        v, self.m = (F(beta) * (self.m - before) + g for beta in (self.beta1, self.beta2))
        return v


class DecidedMomentum(Slot):
    def begin(self):
        self.m = self.run.zeros()

    def estimate(self):
        return F(self.beta) * self.m + F(1 - self.beta) * self.gradient()

    def observe(self, levels, scales, in_x):
        self.m = self.run.table(levels, scales, in_x, lr=1.0)


class Storm(Slot):
    def estimate(self):
        if self.run.t == 0:
            v = self.run.oracle.several(self.voter, 0, self.run.x, self.start_batches)
        else:
            v = self.gradient()
            v = F(1 - self.beta) * (self.v - self.gradient(self.run.x_before)) + v
        length = norm(v, self.run.tensors)
        if self.project and length > self.project:
            v = v * F(self.project / length)
        self.v = v
        return v


class Correction(Slot):
    def estimate(self):
        g = self.gradient()
        return g if self.run.t == 0 else F(-(1 - self.beta)) * self.gradient(self.run.x_before) + g


class Svrg(Slot):
    def estimate(self):
        every = self.every or self.run.oracle.steps_a_pass(self.voter)
        if self.run.t % every == 0:
            self.w = self.run.x.copy()
            self.mu = self.run.oracle.full(self.voter, self.run.t, self.w)
        return (self.gradient() - self.gradient(self.w)) + self.mu


class SnapshotStorm(Slot):
    def estimate(self):
        run, beta = self.run, self.beta
        every = self.every or run.oracle.steps_a_pass(self.voter)
        if run.t % every == 0:
            self.w = run.x.copy()
            self.mu = run.oracle.full(self.voter, run.t, self.w)
        if run.t == 0:
            self.v = self.mu.copy()
            return self.v
        storm = F(1 - beta) * (self.v - self.gradient(run.x_before)) + self.gradient()
        self.v = storm + F(-beta) * (self.gradient(self.w) - self.mu)
        return self.v


class Extrapolated(Slot):
    def estimate(self):
        run = self.run
        return self.gradient(F(self.beta / (1 - self.beta)) * (run.x - run.x_before) + run.x)


class Table(Slot):
    """Keeps each row's whole latest gradient, without the regulariser's, in float64."""

    def begin(self):
        self.latest = {}

    def renew(self):
        """The batch's rows with their gradients before and now."""
        run, found = self.run, {}
        for row in run.oracle.rows_of_batch(self.voter, run.t):
            now = run.oracle.of_row(self.voter, run.t, run.x, row)
            found[row] = self.latest.get(row, np.zeros(len(run.x))), now
        self.latest |= {row: now for row, (_, now) in found.items()}
        return found

    def regularised(self, v):
        return (v + self.run.oracle.of_regulariser(self.voter, self.run.x)).astype(F)


class Sag(Table):
    def estimate(self):
        self.renew()
        return self.regularised(sum(self.latest.values()) / len(self.latest))


class Saga(Table):
    def estimate(self):
        mean = sum(self.latest.values(), np.zeros(len(self.run.x))) / self.run.oracle.count(self.voter)
        changes = [now - before for before, now in self.renew().values()]
        return self.regularised(mean + sum(changes) / len(changes))


class InnerSgd(Slot):
    def direction(self, g, point):
        return g


class InnerAdam(Slot):
    def begin(self):
        self.m, self.variance, self.taken = self.run.zeros(), self.run.zeros(), 0

    def direction(self, g, point):
        self.taken += 1
        self.m = F(self.beta1) * self.m + F(1 - self.beta1) * g
        self.variance = F(self.beta2) * self.variance + F(1 - self.beta2) * (g * g)
        m = self.m * F(1 / (1 - self.beta1**self.taken))
        variance = self.variance * F(1 / (1 - self.beta2**self.taken))
        direction = m / (np.sqrt(variance) + F(self.epsilon))
        return direction + F(self.weight_decay) * point


class InnerLion(Slot):
    def begin(self):
        self.m = self.run.zeros()

    def direction(self, g, point):
        c = F(self.beta1) * self.m + F(1 - self.beta1) * g
        self.m = F(self.beta2) * self.m + F(1 - self.beta2) * g
        return np.sign(c)


class LocalSteps(Slot):
    def begin(self):
        from tests.reference import estimators

        self.optimiser = self.run.slot(estimators, self.by, self.voter)

    def estimate(self):
        point, v = self.run.x.copy(), self.run.zeros()
        for k in range(self.steps):
            g = self.gradient(point, self.run.t * self.steps + k)
            direction = self.optimiser.direction(g, point)
            v = v + direction
            point = point + F(-(self.rate or self.run.lr)) * direction
        return v


class SharedLion(LocalSteps):
    def agree(self, estimates, voters):
        mean = self.run.zeros()
        for voter in voters:
            mean = mean + voter.optimiser.m
        for voter in voters:
            voter.optimiser.m = mean / F(len(voters))
        return estimates


class LocalAdam(Slot):
    def estimate(self):
        point, v, lengths = self.run.x.copy(), self.run.zeros(), doubling(self.lengths)
        first = self.after + sum(next(lengths) for _ in range(self.run.t - self.after))
        steps = next(lengths)
        with np.errstate(divide="ignore", invalid="ignore"):
            for k in range(steps):
                g = self.gradient(point, first + k)
                self.m = F(self.beta) * self.m + F(1 - self.beta) * g
                v = v + F(1 / steps) * self.m
                move = self.m / (np.sqrt(self.variance / F(self.correction)) + F(self.epsilon))
                point = point + F(-self.run.lr) * np.where(self.variance > 0, move, F(0))
        return v

    def observe(self, levels, scales, in_x):
        self.m = self.run.table(levels, scales, in_x, lr=1.0)


class ZerothOrder(Slot):
    def estimate(self):
        run, d = self.run, len(self.run.coordinates)
        value = lambda x: run.oracle.value(self.voter, run.t, x)  # noqa: E731
        v = run.zeros()
        for k in range(self.directions):
            u = run.zeros()
            for i in run.coordinates:
                u[i] = run.random.normal(i, run.t * self.directions + k, self.voter, "direction")
            length = norm(u, run.tensors)
            there = value(run.x + F(self.smoothing / length) * u)
            behind = value(run.x + F(-self.smoothing / length) * u) if self.central else value(run.x)
            slope = (there - behind) / (self.smoothing * (2 if self.central else 1))
            if self.signs:
                v = v + np.sign(slope).astype(F) * np.sign(u)
            else:
                v = v + F(d / self.directions * slope / length) * u
        return v


class SharedDirection(Slot):
    def estimate(self):
        run, z, signs = self.run, self.run.zeros(), 0
        for i in run.coordinates:
            z[i] = run.random.common_normal(i, run.t, NO_VOTER, "direction")
        if self.sphere:
            z = F(1 / norm(z, run.tensors)) * z
        radius = F(self.smoothing or run.lr)
        for t in range(run.t * self.comparisons, (run.t + 1) * self.comparisons):
            ahead, behind = (run.oracle.value(self.voter, t, run.x + side * z) for side in (radius, -radius))
            signs += (ahead > behind) - (ahead < behind)
        self.told = (float(np.sign(signs)),)
        return z


class CalibratedMomentum(Slot):
    def begin(self):
        self.m = self.run.zeros()

    def estimate(self):
        g = self.gradient()
        self.m = F(self.beta) * self.m + F(1 - self.beta) * g
        self.told = (abs(self.total(np.sign(self.m) * g)) / (norm(g, self.run.tensors) ** 2 + 1e-30),)
        return self.m


class DualNorm(Slot):
    def estimate(self):
        g = self.gradient()
        self.told = (self.total(np.abs(g)),)
        return g


class Differences(Slot):
    def begin(self):
        self.g, self.decided = self.run.zeros(), self.run.zeros()

    def estimate(self):
        before, self.g = self.g, self.gradient()
        if self.run.t == 0:
            self.told = (0.0, 0.0)
            return self.g
        if self.same_batch:
            before = self.gradient(self.run.x_before)
        self.told = (self.total(np.abs(self.g - before)), self.total(self.decided * self.g))
        return self.g

    def observe(self, levels, scales, in_x):
        self.decided = levels.astype(F)


def product(a, b):
    """The matrix product, number by number, in float32."""
    out = np.zeros((len(a), len(b[0])), dtype=F)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(len(b)):
                out[i, j] += a[i, k] * b[k, j]
    return out


def gram_schmidt(factor):
    """Its columns made orthonormal, one after the other; one that depends on those before it becomes zeros."""
    columns = [[float(value) for value in column] for column in factor.T]
    lengths = [math.sqrt(sum(value * value for value in column)) for column in columns]
    for k, column in enumerate(columns):
        left = math.sqrt(sum(value * value for value in column))
        column[:] = [value / left if left > 1e-10 * lengths[k] else 0.0 for value in column]
        for other in columns[k + 1 :]:
            along = sum(a * b for a, b in zip(column, other, strict=True))
            other[:] = [b - along * a for a, b in zip(column, other, strict=True)]
    return np.array(columns).T.astype(F)


class LowRank(Slot):
    def begin(self):
        self.residual, self.places, count = self.run.zeros(), {}, 0
        for (offset, size), shape in zip(self.run.tensors, self.run.shapes, strict=True):
            rows = shape[0] if len(shape) > 1 else 1
            columns = size // rows
            if self.rank < min(rows, columns) and self.rank * (rows + columns) < size:
                self.places[offset] = rows, columns, slice(count, count + columns * self.rank)
                count += columns * self.rank
        self.factors = np.zeros(count, dtype=F)

    def estimate(self):
        return self.gradient() + self.residual

    def agree(self, estimates, voters):
        agreed, q, kept = self.run.zeros(), self.start(), np.zeros_like(self.factors)
        for offset, size in self.run.tensors:
            here = slice(offset, offset + size)
            if offset not in self.places:
                agreed[here] = self.mean([v[here] for v in estimates])
                continue
            rows, columns, own = self.places[offset]
            ms = [v[here].reshape(rows, columns) for v in estimates]
            p = gram_schmidt(self.mean([product(m, q[own].reshape(columns, -1)) for m in ms]))
            after = self.mean([product(m.T, p) for m in ms])
            kept[own] = after.reshape(-1)
            agreed[here] = product(p, after.T).reshape(-1)
            for voter, m in zip(voters, ms, strict=True):
                voter.residual[here] = m.reshape(-1) - agreed[here]
        for voter in voters:
            voter.factors = kept
        return [agreed] * len(estimates)

    def mean(self, sent):
        total = sent[0].copy()
        for more in sent[1:]:
            total += more
        return total / F(len(sent))

    def start(self):
        """All Q as they were left; a column of zeros is drawn, number k of all as coordinate k."""
        q = self.factors.copy() if self.warm_start else np.zeros_like(self.factors)
        for _, _, own in self.places.values():
            for j in range(self.rank):
                column = range(own.start + j, own.stop, self.rank)
                if not any(q[k] for k in column):
                    for k in column:
                        q[k] = self.run.random.common_normal(k, self.run.t, NO_VOTER, "low rank")
        return q
