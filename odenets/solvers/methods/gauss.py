"""Gauss methods: collocation at the Gauss-Legendre points, order 2s, A-stable, symmetric and symplectic.

Hairer, Wanner II, section IV.5, tables 5.1 and 5.2. The implicit midpoint rule is the one with a single stage.
"""

from math import sqrt

from ..implicit.collocation import collocation_polynomial
from ..tableau import ButcherTableau

IMPLICIT_MIDPOINT = ButcherTableau("implicit_midpoint", 2, a=((1 / 2,),), b=(1.0,), c=(1 / 2,))

_R3, _R15 = sqrt(3.0), sqrt(15.0)

GL4 = ButcherTableau(
    "gl4",
    4,
    a=((1 / 4, 1 / 4 - _R3 / 6), (1 / 4 + _R3 / 6, 1 / 4)),
    b=(1 / 2, 1 / 2),
    c=(1 / 2 - _R3 / 6, 1 / 2 + _R3 / 6),
)

_C6 = (1 / 2 - _R15 / 10, 1 / 2, 1 / 2 + _R15 / 10)

GL6 = ButcherTableau(
    "gl6",
    6,
    a=(
        (5 / 36, 2 / 9 - _R15 / 15, 5 / 36 - _R15 / 30),
        (5 / 36 + _R15 / 24, 2 / 9, 5 / 36 - _R15 / 24),
        (5 / 36 + _R15 / 30, 2 / 9 + _R15 / 15, 5 / 36),
    ),
    b=(5 / 18, 4 / 9, 5 / 18),
    c=_C6,
    interpolant=collocation_polynomial(_C6),
)
