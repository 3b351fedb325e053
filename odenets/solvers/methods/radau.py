"""Radau IIA methods: collocation with the right end as a node, order 2s - 1, L-stable, stiffly accurate.

Hairer, Wanner II, section IV.5, tables 5.5 and 5.6; the error estimate of order 3 of the three-stage method is eq.
(8.19) of section IV.8, gamma0 h f(t, y) + e^T z with z = h A k, and is to be filtered through (I - h gamma0 J)^{-1}.
"""

from math import sqrt

import numpy as np

from ..implicit.collocation import collocation_polynomial
from ..tableau import ButcherTableau

RADAU_IIA3 = ButcherTableau("radauIIA3", 3, a=((5 / 12, -1 / 12), (3 / 4, 1 / 4)), b=(3 / 4, 1 / 4), c=(1 / 3, 1.0))

_R6 = sqrt(6.0)
_A = (
    ((88 - 7 * _R6) / 360, (296 - 169 * _R6) / 1800, (-2 + 3 * _R6) / 225),
    ((296 + 169 * _R6) / 1800, (88 + 7 * _R6) / 360, (-2 - 3 * _R6) / 225),
    ((16 - _R6) / 36, (16 + _R6) / 36, 1 / 9),
)
_C = ((4 - _R6) / 10, (4 + _R6) / 10, 1.0)

RADAU_IIA5 = ButcherTableau("radauIIA5", 5, a=_A, b=_A[2], c=_C, interpolant=collocation_polynomial(_C))

GAMMA0 = 1 / (3 + 3 ** (2 / 3) - 3 ** (1 / 3))
"""The real eigenvalue of A, hence a matrix that the stages need anyway."""

_E = GAMMA0 / 3 * np.array([-13 - 7 * _R6, -13 + 7 * _R6, -1.0])

ERROR_WEIGHTS = (GAMMA0, *(float(x) for x in _E @ np.array(_A)))
"""Of f(t, y) and of the three stages, in the error estimate before it is filtered."""
