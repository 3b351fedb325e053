"""Implicit (backward) Euler, order 1, L-stable (Hairer, Wanner II, section IV.3)."""

from ..tableau import ButcherTableau

IMPLICIT_EULER = ButcherTableau("implicit_euler", 1, a=((1.0,),), b=(1.0,), c=(1.0,))
