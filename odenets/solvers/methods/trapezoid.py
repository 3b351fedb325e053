"""The trapezoidal rule, order 2, A-stable, not L-stable (HNW I, section II.7, eq. 7.6)."""

from ..tableau import ButcherTableau

TRAPEZOID = ButcherTableau("trapezoid", 2, a=((), (1 / 2, 1 / 2)), b=(1 / 2, 1 / 2), c=(0.0, 1.0))
