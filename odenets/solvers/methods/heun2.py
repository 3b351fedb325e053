"""Heun's method, order 2: Euler predictor, trapezoidal corrector (Runge 1895; HNW section II.1, eq. 1.5)."""

from ..tableau import ButcherTableau

HEUN2 = ButcherTableau("heun2", 2, a=((), (1.0,)), b=(1 / 2, 1 / 2), c=(0.0, 1.0))
