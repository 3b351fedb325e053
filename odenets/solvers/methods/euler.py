"""Forward Euler, order 1 (Euler 1768; HNW section I.7)."""

from ..tableau import ButcherTableau

EULER = ButcherTableau("euler", 1, a=((),), b=(1.0,), c=(0.0,))
