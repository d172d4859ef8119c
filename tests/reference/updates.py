"""How x moves. Dense updates are float32 formulas, which torch may contract or reorder: equal within rounding only."""

import math

import numpy as np

from tests.reference.arithmetic import cosines_of_each, doubling, norm, polar_of_each, tiled

F = np.float32


class Slot:
    def begin(self):
        pass

    def put(self, x):
        for i in self.run.coordinates:
            self.run.x[i] = x[i]

    def decayed(self):
        return F(1 - self.run.lr * self.weight_decay) * self.run.x


class Descent(Slot):
    def move(self, levels, scales, in_x):
        if self.run.t >= self.first:
            self.put(self.decayed() - self.run.table(levels, scales, in_x, self.run.lr * self.factor))


class RawDescent(Slot):
    def move(self, v, scales, in_x):
        rate = F(self.factor if self.in_x else self.run.lr * self.factor)
        self.put(F(1 - self.run.lr * self.factor * self.weight_decay) * self.run.x + -rate * v)


class VotedDescent(Slot):
    def move(self, v, scales, in_x):
        sign = np.sign(sum(voter[0] for voter in self.run.told))
        self.put(self.decayed() + F(-sign * self.run.lr) * v)


class LionDescent(Slot):
    def begin(self):
        self.m = self.run.zeros()

    def move(self, v, scales, in_x):
        rate = self.run.lr * self.factor
        u = F(self.beta1) * self.m + F(1 - self.beta1) * v
        self.m = F(self.beta2) * self.m + F(1 - self.beta2) * v
        self.put(F(1 - rate * self.weight_decay) * self.run.x - F(rate) * np.sign(u))


class BetterPoint(Descent):
    def move(self, levels, scales, in_x):
        before = self.run.x.copy()
        if self.run.t == 0:
            self.value = self.run.oracle.objective(before)
        super().move(levels, scales, in_x)
        value = self.run.oracle.objective(self.run.x)
        if value < self.value:
            self.value = value
        else:
            self.run.x = before


class Rprop(Slot):
    def begin(self):
        self.before = self.run.zeros()

    def takes_back(self):
        return self.backtracks

    def move(self, levels, scales, in_x):
        x, takes_back = self.run.x, self.takes_back()
        if self.run.t == 0:
            self.size = np.full(len(x), F(self.run.lr))
        for i in self.run.coordinates:
            s, size = F(levels[i]), self.size[i]
            turn = self.before[i] * s
            if turn < 0 and takes_back:
                x[i] += size * self.before[i]
            size = size * F(self.increase) if turn > 0 else size * F(self.decrease) if turn < 0 else size
            self.size[i] = min(max(size, F(self.least)), F(self.most))
            s = F(0) if turn < 0 else s
            x[i] -= self.size[i] * s
            self.before[i] = s


class ImprovedRprop(Rprop):
    def takes_back(self):
        value = self.run.oracle.objective(self.run.x)
        risen = self.run.t > 0 and value > self.value
        self.value = value
        return risen


class AcceleratedDescent(Descent):
    def move(self, levels, scales, in_x):
        before = self.run.x.copy() if self.run.t == 0 else self.point
        super().move(levels, scales, in_x)
        self.point = self.run.x.copy()
        ahead = self.point + F(self.momentum) * (self.point - before)
        if self.run.oracle.objective(ahead) <= self.run.oracle.objective(self.point):
            self.put(ahead)


class AttractedDescent(Slot):
    def begin(self):
        self.center = self.run.zeros()

    def move(self, levels, scales, in_x):
        x, lr = self.run.x, self.run.lr
        share = (1 - self.beta) / (1 - self.beta ** (self.run.t + 1))
        self.center = self.center + F(share) * (x - self.center)
        toward = levels.astype(F) + F(self.gamma) * np.sign(x - self.center)
        self.put(x + F(-lr) * toward + F(-lr * self.weight_decay) * self.center)


class CalibratingDescent(Descent):
    def move(self, levels, scales, in_x):
        told = sum(t[0] for t in self.run.told) / self.run.n
        mixed = told if self.run.t == 0 else self.average * self.ratio[0] + (1 - self.average) * told
        self.ratio = np.array([mixed])
        super().move(levels, scales, in_x)


class CalibratedDescent(RawDescent):
    def move(self, v, scales, in_x):
        lr = self.run.lr
        self.run.lr = lr * self.ratio[0]
        super().move(v, scales, in_x)
        self.run.lr = lr


class ParameterFree(Descent):
    def move(self, levels, scales, in_x):
        lr = self.run.lr
        if self.run.t == 0:
            self.curvature, self.gained = self.smoothness, 0.0
        else:
            difference, along = (sum(t[k] for t in self.run.told) / self.run.n for k in (0, 1))
            self.curvature += difference / self.moved
            self.gained += self.moved * along
            self.gap = max(self.gap, self.gained)
        gamma = min(np.sqrt(self.gap / self.curvature), self.most)
        self.moved = self.run.lr = lr * gamma
        super().move(levels, scales, in_x)
        self.run.lr = lr


class SteepestDescent(Descent):
    def move(self, levels, scales, in_x):
        if self.run.t >= self.first:
            length = sum(t[0] for t in self.run.told) / self.run.n
            self.put(self.decayed() - self.run.table(levels, scales, in_x, self.run.lr * length))


class NormalisedDescent(Slot):
    def move(self, v, scales, in_x):
        length = norm(v, self.run.tensors)
        rate = self.run.lr / length if length else 0.0
        self.put(self.decayed() - F(rate) * v)


class MatrixDescent(Slot):
    family = "polar"

    def move(self, decided, scales, in_x):
        self.put(self.decayed() - self.rates() * self.toward(decided.astype(F)))

    def toward(self, d):
        return self.signed(d, matrices=False)

    def signed(self, d, matrices):
        """Signs of what is no matrix, or of matrices."""
        out = d.copy()
        for (offset, size), shape in zip(self.run.tensors, self.run.shapes, strict=True):
            if (len(shape) > 1) == matrices:
                out[offset : offset + size] = np.sign(d[offset : offset + size])
        return out

    def rates(self):
        """Each coordinate's, float32."""
        out = self.run.zeros()
        for (offset, size), shape in zip(self.run.tensors, self.run.shapes, strict=True):
            factor = self.others
            if len(shape) > 1:
                rows, columns = shape[0], size / shape[0]
                factor = math.sqrt(max(1, rows / columns)) if self.family == "polar" else 1 / math.sqrt(columns)
                factor = factor if self.scaled else 1.0
            out[offset : offset + size] = self.run.lr * factor
        return out


class SignDescent(MatrixDescent):
    family = "sign"


class PolarDescent(MatrixDescent):
    def toward(self, d):
        return super().toward(polar_of_each(d, self.run, self.kind))


class PolarSignDescent(PolarDescent):
    family = "sign"

    def toward(self, d):
        return self.signed(super().toward(d), matrices=True)


class CosineSignDescent(Slot):
    def move(self, decided, scales, in_x):
        u = cosines_of_each(decided.astype(F), self.run, self.chunk, inverse=True)
        self.put(self.decayed() - F(self.run.lr) * np.sign(u))


class TrackedPolarDescent(PolarDescent):
    """Keeps y - x: y = decay*y - rate*d gives decay*(y - x) - rate*d + (decay - 1)*x."""

    def begin(self):
        self.ahead = self.run.zeros()

    def move(self, decided, scales, in_x):
        decay, x = F(1 - self.run.lr * self.weight_decay), self.run.x
        left = decay * self.ahead - self.rates() * self.toward(decided.astype(F))
        left = left + F(float(decay) - 1) * x if decay != 1 else left
        move = self.run.zeros()
        for offset, size in self.run.tensors:
            here = slice(offset, offset + size)
            move[here] = F(tiled(left, offset, size, 1) / size) * np.sign(left[here])
        self.put(x + move)
        self.ahead = left - move


class Adagrad(Slot):
    def begin(self):
        self.s = self.run.zeros()

    def move(self, g, scales, in_x):
        self.s = self.s + g * g
        self.put(self.decayed() - F(self.run.lr) * (g / (np.sqrt(self.s) + F(self.epsilon))))


class Adadelta(Slot):
    def begin(self):
        self.s, self.u = self.run.zeros(), self.run.zeros()

    def move(self, g, scales, in_x):
        rho, epsilon = self.rho, F(self.epsilon)
        self.s = F(rho) * self.s + F(1 - rho) * (g * g)
        delta = np.sqrt(self.u + epsilon) / np.sqrt(self.s + epsilon) * g
        self.u = F(rho) * self.u + F(1 - rho) * (delta * delta)
        self.put(self.decayed() - F(self.run.lr) * delta)


class Yogi(Slot):
    def begin(self):
        self.m, self.v = self.run.zeros(), np.full_like(self.run.x, self.initial)

    def move(self, g, scales, in_x):
        t, lr = self.run.t + 1, self.run.lr
        self.m = F(self.beta1) * self.m + F(1 - self.beta1) * g
        for i in self.run.coordinates:
            square = g[i] * g[i]
            if self.v[i] > square:
                self.v[i] = self.v[i] - F(1 - self.beta2) * square
            elif self.v[i] < square:
                self.v[i] = self.v[i] + F(1 - self.beta2) * square
        scale = np.sqrt(self.v * F(1 / (1 - self.beta2**t))) + F(self.epsilon)
        self.put(self.decayed() - F(lr / (1 - self.beta1**t)) * (self.m / scale))


class VarianceAdapted(Slot):
    def begin(self):
        self.m, self.v = self.run.zeros(), self.run.zeros()

    def move(self, g, scales, in_x):
        beta, t = self.beta, self.run.t + 1
        self.m = F(beta) * self.m + F(1 - beta) * g
        self.v = F(beta) * self.v + F(1 - beta) * (g * g)
        rho, moved = (1 - beta) * (1 + beta**t) / ((1 + beta) * (1 - beta**t)), self.run.zeros()
        for i in self.run.coordinates:
            m, v = self.m[i] * F(1 / (1 - beta**t)), self.v[i] * F(1 / (1 - beta**t))
            noise = F(0) if t == 1 else max(v - m * m, F(0)) * F(rho / (1 - rho))
            moved[i] = m * m / (m * m + noise) * m if m != 0 else F(0)
        self.put(self.decayed() - F(self.run.lr) * moved)


class Sgd(Slot):
    def begin(self):
        self.m = self.run.zeros()

    def move(self, g, scales, in_x):
        g = g if scales is None else self.run.table(g, scales, in_x, lr=1.0)
        g = g + F(self.weight_decay) * self.run.x
        self.m = F(self.momentum) * self.m + g
        step = g + F(self.momentum) * self.m if self.nesterov else self.m
        self.put(self.run.x - F(self.run.lr * self.factor) * step)


class Adam(Slot):
    def begin(self):
        self.m, self.v = self.run.zeros(), self.run.zeros()

    def move(self, g, scales, in_x):
        t, lr = self.run.t + 1, self.run.lr
        self.m = self.m + F(1 - self.beta1) * (g - self.m)
        self.v = F(self.beta2) * self.v + F(1 - self.beta2) * g * g
        scale = np.sqrt(self.v / F(1 - self.beta2**t)) + F(self.epsilon)
        self.put(self.decayed() - F(lr / (1 - self.beta1**t)) * self.m / scale)


class FrozenAdam(Slot):
    def begin(self):
        self.v = self.run.zeros()

    def move(self, levels, scales, in_x):
        m = self.run.table(levels, scales, in_x, lr=1.0)
        moved = np.where(self.v > 0, m / (np.sqrt(self.v / F(self.correction)) + F(self.epsilon)), F(0))
        self.put(self.decayed() - F(self.run.lr) * moved)


class RoundAdam(FrozenAdam):
    def move(self, levels, scales, in_x):
        lr, lengths = self.run.lr, doubling(self.lengths)
        for _ in range(self.run.t - self.after):
            next(lengths)
        self.run.lr = lr * next(lengths)
        super().move(levels, scales, in_x)
        self.run.lr = lr


class ThinnedAdam(Slot):
    def begin(self):
        self.m, self.v = self.run.zeros(), self.run.zeros()

    def move(self, direction, scales, in_x):
        t, begins = self.run.t, [0]
        for length in doubling(self.intervals):
            if begins[-1] > t:
                break
            begins.append(begins[-1] + length)
        changes = sum(begin <= t for begin in begins)
        g = direction if scales is None else self.run.table(direction, scales, in_x, lr=1.0)
        self.m = F(self.beta1) * self.m + F(1 - self.beta1) * g
        if t in begins:
            self.v = F(self.beta2) * self.v + F(1 - self.beta2) * (g * g)
        scale = np.sqrt(self.v * F(1 / (1 - self.beta2**changes))) + F(self.epsilon)
        moved = np.where(self.v > 0, self.m / scale, F(0))
        self.put(self.decayed() - F(self.run.lr / (1 - self.beta1 ** (t + 1))) * moved)


class Lamb(Slot):
    def begin(self):
        self.m, self.v = self.run.zeros(), self.run.zeros()
        self.ratios = np.zeros(len(self.run.tensors))

    def move(self, g, scales, in_x):
        x, lr = self.run.x, self.run.lr
        self.m = F(self.beta1) * self.m + F(1 - self.beta1) * g
        self.v = F(self.beta2) * self.v + F(1 - self.beta2) * (g * g)
        u = self.m / (np.sqrt(self.v) + F(self.epsilon)) + F(self.weight_decay) * x
        for b, (offset, size) in enumerate(self.run.tensors):
            of_x, of_u = (math.sqrt(tiled(a, offset, size, 2)) for a in (x, u))
            r = min(max(of_x / of_u, self.least), self.most) if of_x and of_u else 1.0
            if r != 1:
                self.ratios[b] = self.average * self.ratios[b] + (1 - self.average) * r
            here = slice(offset, offset + size)
            x[here] = x[here] + F(-lr * r) * u[here]


class FrozenLamb(Slot):
    def begin(self):
        self.m, self.v, self.w = self.run.zeros(), self.run.zeros(), self.run.zeros()
        self.ratios = np.zeros(len(self.run.tensors))
        self.factors = [1.0] * len(self.run.tensors)

    def move(self, levels, scales, in_x):
        x, decay, new = self.run.x, self.weight_decay, self.run.table(levels, scales, in_x, lr=1.0)
        g = (F(-self.beta1) * self.m + new) * F(1 / (1 - self.beta1))
        self.w = F(self.beta2) * self.w + F(1 - self.beta2) * (g * g)
        self.m = new
        scale = np.sqrt(self.v) + F(self.epsilon)
        u = np.where(self.v == 0, F(0), new / scale)
        together = u + F(decay) * x
        for b, (offset, size) in enumerate(self.run.tensors):
            here = slice(offset, offset + size)
            factor = float(max(scale[here] / (np.sqrt(self.w[here]) + F(self.epsilon))))
            if decay:
                norms = [math.sqrt(tiled(a, offset, size, 2)) for a in (u, together)]
                share = min(1.0, norms[0] / norms[1])
                factor = factor * share + (1 - share)
            factor = min(max(factor, self.least), self.most)
            last = self.factors[b]
            self.factors[b] = min(max(factor, last * (1 - self.change)), last * (1 + self.change))
            rate = self.run.lr * self.ratios[b] * self.factors[b]
            x[here] = x[here] + F(-rate) * together[here]
