"""The counterexample to majority vote in two dimensions, one term a voter."""

import numpy as np
import torch

from mpisign.problems import Problem, Rows, Tables


class TwoTerms(Problem):
    """f_i = <a_i, x>^2 with a_1 = (1.5, -0.5), a_2 = (-0.5, 1.5), started at (1, 1)."""

    offers = frozenset({"finite sum", "two points"})

    def read(self):
        return Tables(train=Rows(a=np.array([[1.5, -0.5], [-0.5, 1.5]], dtype=np.float32)), classes=np.array([0, 1]))

    def initial(self, generator):
        return {"x": torch.ones(2)}

    def loss(self, parameters, batch):
        return ((batch["a"] @ parameters["x"]) ** 2).mean()
