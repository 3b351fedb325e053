"""The theta method y+ = y + h ((1 - theta) f(t, y) + theta f(t + h, y+)) (HNW I, section II.7).

theta = 1/2 is the trapezoidal rule, of order 2; 1 is implicit Euler; A-stable for theta >= 1/2.
"""

import functools

from ..errors import InputError
from ..tableau import ButcherTableau


@functools.cache
def theta(value: float) -> ButcherTableau:
    """The method for one value in (0, 1]; its name is "theta(0.7)".

    Raises:
        InputError: outside that interval.
    """
    if not 0 < value <= 1:
        raise InputError(f"theta must lie in (0, 1], got {value}; for 0 use euler.")
    weights = (1.0 - value, value)
    return ButcherTableau(f"theta({value:g})", 2 if value == 0.5 else 1, a=((), weights), b=weights, c=(0.0, 1.0))
