"""Heun's method of order 3 (Heun 1900; HNW section II.1, table 1.1)."""

from ..tableau import ButcherTableau

HEUN3 = ButcherTableau("heun3", 3, a=((), (1 / 3,), (0.0, 2 / 3)), b=(1 / 4, 0.0, 3 / 4), c=(0.0, 1 / 3, 2 / 3))
