"""Kvaerno 4(3): ESDIRK, five stages, both methods stiffly accurate, the propagated one L-stable.

Kvaerno, BIT 44 (2004), section 3: all coefficients as functions of gamma, which is the root of
x^4 - 4 x^3 + 3 x^2 - 2/3 x + 1/24 for which R(infinity) = 0.
"""

from ..tableau import ButcherTableau

_G = 0.57281606248213485541
_P = 12 * _G**2 - 6 * _G + 1
_Q = 12 * _G**2 - 9 * _G + 2
_A3 = (
    _G * (144 * _G**4 - 180 * _G**3 + 81 * _G**2 - 15 * _G + 1) / _P**2,
    _G * (-36 * _G**3 + 39 * _G**2 - 15 * _G + 2) / _P**2,
    _G,
)
_A4 = (
    (-144 * _G**5 + 396 * _G**4 - 330 * _G**3 + 117 * _G**2 - 18 * _G + 1) / (12 * _G**2 * _Q),
    (72 * _G**4 - 126 * _G**3 + 69 * _G**2 - 15 * _G + 1) / (12 * _G**2 * (3 * _G - 1)),
    (-6 * _G**2 + 6 * _G - 1) * _P**2 / (12 * _G**2 * _Q * (3 * _G - 1)),
    _G,
)
_B = (
    (288 * _G**4 - 312 * _G**3 + 120 * _G**2 - 18 * _G + 1) / (48 * _G**2 * _Q),
    (24 * _G**2 - 12 * _G + 1) / (48 * _G**2 * (3 * _G - 1)),
    -(_P**3) / (48 * _G**2 * (3 * _G - 1) * _Q * (6 * _G**2 - 6 * _G + 1)),
    (-24 * _G**3 + 36 * _G**2 - 12 * _G + 1) / (24 * _G**2 - 24 * _G + 4),
    _G,
)

KVAERNO4 = ButcherTableau(
    "kvaerno4",
    4,
    a=((), (_G, _G), _A3, _A4, _B),
    b=_B,
    c=(0.0, 2 * _G, sum(_A3), 1.0, 1.0),
    b_error=tuple(b - e for b, e in zip(_B, (*_A4, 0.0))),
)
