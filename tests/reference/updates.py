"""How x moves. Dense updates are float32 formulas, which torch may contract or reorder: equal within rounding only."""

import numpy as np

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
            self.put(self.decayed() - self.run.table(levels, scales, in_x))


class Sgd(Slot):
    def begin(self):
        self.m = self.run.zeros()

    def move(self, g, scales, in_x):
        g = g + F(self.weight_decay) * self.run.x
        self.m = F(self.momentum) * self.m + g
        step = g + F(self.momentum) * self.m if self.nesterov else self.m
        self.put(self.run.x - F(self.run.lr) * step)


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
