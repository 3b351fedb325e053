"""The two fourth-order methods of Kutta (1901; HNW section II.1, table 1.2): the classic one and the 3/8 rule.

The 3/8 rule has the smaller error constants for the same four evaluations. torchdiffeq calls it "rk4"; the drop-in
`odeint` keeps that meaning, everything else in odenets says `rk4` for the classic one and `rk4_38` for the other.
"""

from ..tableau import ButcherTableau

RK4 = ButcherTableau(
    "rk4",
    4,
    a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    c=(0.0, 1 / 2, 1 / 2, 1.0),
)

RK4_38 = ButcherTableau(
    "rk4_38",
    4,
    a=((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    b=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
    c=(0.0, 1 / 3, 2 / 3, 1.0),
)
