"""Normal draws that all ranks make for themselves: the same bits on every machine.

A library's logarithms and cosines differ in their last bits between processors and versions. These are made of sums,
products, quotients and square roots of float64 alone, which IEEE 754 rounds in one way: the inverse of the normal
distribution by rational functions [Wichura 1988, algorithm AS 241, PPND16], of a uniform draw of 32 bits.
"""

import numpy as np

from mpisign.bits.rng import Draw

# numerators and denominators, highest power first: around the middle, and towards the ends
MIDDLE = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
     1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
     5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0),
)  # fmt: skip
ENDS = (
    (7.7454501427834140764e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258,
     3.64784832476320460504, 5.76949722146069140550, 4.63033784615654529590, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
     6.89767334985100004550e-1, 1.67638483018380384940, 2.05319162663775882187, 1.0),
)  # fmt: skip
EDGE = 0.425  # of the middle, in probability from 1/2
LN2, ROOT_HALF = 0.6931471805599453, 0.7071067811865476


def normals(count: int, draw: Draw) -> np.ndarray:
    """N(0, 1) for coordinates 0 to count - 1, float32 (count,), within 6.24 of 0: a word of the draw for each."""
    words = draw.blocks(0, -(-count // 4)).reshape(-1)[:count]
    p = (words + 0.5) * 2.0**-32  # exact
    q = p - 0.5
    z = q * _ratio(0.180625 - q * q, MIDDLE)
    far = np.abs(q) > EDGE
    r = np.sqrt(-_log(np.where(q < 0, p, 1.0 - p)[far])) - 1.6
    z[far] = np.copysign(_ratio(r, ENDS), q[far])
    return z.astype(np.float32)


def _ratio(r, functions):
    """The quotient of two polynomials."""
    above, below = (_polynomial(r, coefficients) for coefficients in functions)
    return above / below


def _polynomial(r, coefficients):
    value = coefficients[0]
    for c in coefficients[1:]:
        value = value * r + c
    return value


def _log(p):
    """log(p) of p > 0: e*log(2) + 2*artanh((m - 1)/(m + 1)), p = m * 2^e with m around 1, as a series."""
    m, e = np.frexp(p)
    low = m < ROOT_HALF
    m, e = np.where(low, 2 * m, m), e - low
    s = (m - 1) / (m + 1)
    return e * LN2 + 2 * s * _polynomial(s * s, [1 / k for k in range(21, 0, -2)])
