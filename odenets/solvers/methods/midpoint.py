"""Explicit midpoint rule, order 2 (Runge 1895; HNW section II.1, eq. 1.4)."""

from ..tableau import ButcherTableau

MIDPOINT = ButcherTableau("midpoint", 2, a=((), (1 / 2,)), b=(0.0, 1.0), c=(0.0, 1 / 2))
