"""Dormand and Prince's pair of order 5(4), first same as last (J. Comp. Appl. Math. 6, 1980; HNW section II.5).

The error weights are Dormand and Prince's (as in HNW, MATLAB and scipy); torchdiffeq's are another pair of Shampine's,
with which it takes steps some 8% longer at the same tolerance. Dense output of order 4: Shampine's quartic through a
fourth-order midpoint (Math. Comp. 46, 1986).
"""

from ..tableau import ButcherTableau, quartic_from_midpoint

_B = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0)
_B_MIDDLE = (
    6025192743 / 30085553152 / 2,
    0.0,
    51252292925 / 65400821598 / 2,
    -2691868925 / 45128329728 / 2,
    187940372067 / 1594534317056 / 2,
    -1776094331 / 19743644256 / 2,
    11237099 / 235043384 / 2,
)

DOPRI5 = ButcherTableau(
    "dopri5",
    5,
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        _B[:-1],
    ),
    b=_B,
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    b_error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    interpolant=quartic_from_midpoint(_B, _B_MIDDLE),
)
