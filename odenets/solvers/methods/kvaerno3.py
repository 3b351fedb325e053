"""Kvaerno 3(2): ESDIRK, four stages, both methods stiffly accurate, the propagated one L-stable.

Kvaerno, "Singly diagonally implicit Runge-Kutta methods with an explicit first stage", BIT 44 (2004), section 3.
gamma is the root of x^3 - 3 x^2 + 3/2 x - 1/6 for which R(infinity) = 0.
"""

from ..tableau import ButcherTableau

_G = 0.43586652150845899942
_A3 = ((-4 * _G**2 + 6 * _G - 1) / (4 * _G), (1 - 2 * _G) / (4 * _G), _G)
_B = ((6 * _G - 1) / (12 * _G), -1 / ((24 * _G - 12) * _G), (-6 * _G**2 + 6 * _G - 1) / (6 * _G - 3), _G)

KVAERNO3 = ButcherTableau(
    "kvaerno3",
    3,
    a=((), (_G, _G), _A3, _B),
    b=_B,
    c=(0.0, 2 * _G, 1.0, 1.0),
    b_error=tuple(b - e for b, e in zip(_B, (*_A3, 0.0))),
)
