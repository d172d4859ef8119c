"""Estimates of a gradient; `run` is the Reference, `voter` whose estimate it is."""

import numpy as np

from tests.reference.arithmetic import norm

F = np.float32


class Slot:
    def begin(self):
        pass

    def observe(self, levels, scales, in_x):
        pass

    def gradient(self, x=None):
        return self.run.oracle.gradient(self.voter, self.run.t, self.run.x if x is None else x)


class Minibatch(Slot):
    def estimate(self):
        return self.gradient()


class FullGradient(Slot):
    def estimate(self):
        return self.run.oracle.full(self.voter, self.run.t, self.run.x)


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


class Nesterov(Slot):
    def begin(self):
        self.m = self.run.zeros()

    def estimate(self):
        g = self.gradient()
        self.m = F(self.momentum) * self.m + g
        return F(self.momentum) * self.m + g


class Lion(Slot):
    def begin(self):
        self.m = self.run.zeros()

    def estimate(self):
        g = self.gradient()
        c = F(self.beta1) * self.m + F(1 - self.beta1) * g
        self.m = F(self.beta2) * self.m + F(1 - self.beta2) * g
        return c


class DecidedMomentum(Slot):
    def begin(self):
        self.m = self.run.zeros()

    def estimate(self):
        return F(self.beta) * self.m + F(1 - self.beta) * self.gradient()

    def observe(self, levels, scales, in_x):
        self.m = self.run.table(levels, scales, in_x, lr=1.0)


class Storm(Slot):
    def estimate(self):
        v = self.gradient()
        if self.run.t:
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
