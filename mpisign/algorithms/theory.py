"""Rates and hyperparameters from the papers' theorems: `--preset theory`.

Each function is the formula of one paper, for T steps, n voters, d coordinates and constants of the problem that the
user states in [theory]. A theorem's constants are safe, not fast: see them as a starting point.
"""

from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

from mpisign.errors import UsageError

CONSTANTS = {
    "gap": "f(x0) - f*",
    "smoothness": "Lipschitz constant L of the gradient",
    "smoothness_l1": "sum of the coordinates' Lipschitz constants",
    "largest_gradient": "G, no less than any coordinate of any voter's estimate",
    "gradient_norm": "H, no less than the root of the mean of |g|^2",
}


@dataclass(frozen=True)
class Setting:
    """What a formula may use; a constant that was not stated is asked for."""

    steps: int
    voters: int
    d: int
    batches: int  # in a pass over a voter's rows
    stated: dict[str, float]
    algorithm: str
    option: int = 1

    def __getitem__(self, constant: str) -> float:
        if constant not in self.stated:
            raise UsageError(
                f"--preset theory needs theory.{constant} for {self.algorithm} ({CONSTANTS[constant]}); "
                f"set it, as in --set theory.{constant}=1.0",
                agreed=True,
            )
        return self.stated[constant]


def signsgd_mv(s: Setting) -> dict[str, Any]:
    """Bernstein et al. 2019, thm. 1 (batches of one): eta = sqrt(D0/(|L|_1 K))."""
    return {"lr": sqrt(s["gap"] / (s["smoothness_l1"] * s.steps))}


def signsgd_sim(s: Setting) -> dict[str, Any]:
    """Sun et al. 2023: 1 - theta = T^(-1/2), gamma = T^(-3/4), orders only, reconstructed."""
    return {"lr": s.steps**-0.75, "beta": 1 - s.steps**-0.5}


def ssvr(s: Setting) -> dict[str, Any]:
    """Jiang et al. 2024, thm. 1: beta = T^(-2/3), eta = d^(-1/2) T^(-2/3), B0 = T^(1/3); orders only, reconstructed."""
    t = s.steps
    return {"lr": s.d**-0.5 * t ** (-2 / 3), "beta": t ** (-2 / 3), "start_batches": ceil(t ** (1 / 3))}


def ssvr_fs(s: Setting) -> dict[str, Any]:
    """Jiang et al. 2024, thm. 2: I = m, beta = 1/m, eta = m^(-1/4) d^(-1/2) T^(-1/2); orders only, reconstructed."""
    m = s.batches
    return {"lr": m**-0.25 * (s.d * s.steps) ** -0.5, "beta": 1 / m, "every": m}


def noisy_median(s: Setting) -> dict[str, Any]:
    """Chen et al. 2020, thm. 6: b = (T d)^(1/6), delta = (T d)^(-2/3)."""
    return {"lr": (s.steps * s.d) ** (-2 / 3), "noise": (s.steps * s.d) ** (1 / 6)}


def ssdm(s: Setting) -> dict[str, Any]:
    """Safaryan & Richtarik 2021: gamma = K^(-3/4), 1 - beta = K^(-1/2); orders only, reconstructed."""
    return {"lr": s.steps**-0.75, "beta": 1 - s.steps**-0.5}


def mv_signsgd_sim(s: Setting) -> dict[str, Any]:
    """Sun et al. 2023: 1 - theta = T^(-1/2), gamma = T^(-3/4), orders only, reconstructed; R = G."""
    return {"lr": s.steps**-0.75, "beta": 1 - s.steps**-0.5, "radius": s["largest_gradient"]}


def ssvr_mv(s: Setting) -> dict[str, Any]:
    """Jiang et al. 2024: option 1, beta = 1/2, eta = (d K)^(-1/2), R = 4G; option 2, beta = eta, R = G.

    Details are reconstructed.
    """
    rate = (s.d * s.steps) ** -0.5
    if s.option == 1:
        return {"lr": rate, "beta": 0.5, "radius": 4 * s["largest_gradient"]}
    return {"lr": rate, "beta": rate, "radius": s["largest_gradient"]}


def dvr_sign(s: Setting) -> dict[str, Any]:
    """Jiang et al. 2026: a = d, u = 1/(sqrt(K) + (a/n)^(1/3) K^(2/3)); beta = u, eta = H u/(L sqrt(d))."""
    k = s.steps
    u = 1 / (sqrt(k) + (s.d / s.voters) ** (1 / 3) * k ** (2 / 3))
    lr = s["gradient_norm"] * u / (s["smoothness"] * sqrt(s.d))
    return {"lr": lr, "beta": u, "start_batches": min(ceil(1 / (u * u * k)), k)}


def dvr_q(s: Setting) -> dict[str, Any]:
    """Jiang et al. 2026: a = d, r = (K/n^2)^(1/3); eta = 1/(2 L a (1+r)), beta = 1/(n (1+r)^2), B0 = ceil(1+r)."""
    r = (s.steps / s.voters**2) ** (1 / 3)
    return {
        "lr": 1 / (2 * s["smoothness"] * s.d * (1 + r)),
        "beta": 1 / (s.voters * (1 + r) ** 2),
        "start_batches": min(ceil(1 + r), s.steps),
    }
