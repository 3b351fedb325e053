"""Ralston's method, order 2 with the least bound of the local error (Ralston, Math. Comp. 16, 1962)."""

from ..tableau import ButcherTableau

RALSTON = ButcherTableau("ralston", 2, a=((), (2 / 3,)), b=(1 / 4, 3 / 4), c=(0.0, 2 / 3))
