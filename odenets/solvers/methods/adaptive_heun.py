"""Heun's method with an Euler error estimate, order 2(1).

f at the new state is evaluated anew for the next step: the last stage is f at Euler's prediction, not at the state
kept. (torchdiffeq reuses that stage and so runs a different, cheaper method under the same name.)
"""

from ..tableau import ButcherTableau

ADAPTIVE_HEUN = ButcherTableau(
    "adaptive_heun", 2, a=((), (1.0,)), b=(1 / 2, 1 / 2), c=(0.0, 1.0), b_error=(-1 / 2, 1 / 2)
)
