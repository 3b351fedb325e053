"""Exponential time differencing: methods that are exact in the linear part of y' = L y + N(t, y).

Cox, Matthews, "Exponential time differencing for stiff systems", J. Comput. Phys. 176 (2002) 430-455, and Hochbruck,
Ostermann, "Explicit exponential Runge-Kutta methods for semilinear parabolic problems", SIAM J. Numer. Anal. 43 (2005)
1069-1090. A term (factor, k, c) is factor phi_k(c h L).
"""

from ..structured.exponential import ExponentialRungeKutta

HALF = 0.5

# exponential Euler: Cox, Matthews eq. 4
ETD1 = ExponentialRungeKutta("etd1", order=1, stiff_order=1, c=(0.0,), a=(), b=(((1.0, 1, 1.0),),))

# Cox, Matthews eq. 20-22; Hochbruck, Ostermann eq. 5.3 with c_2 = 1
ETDRK2 = ExponentialRungeKutta(
    "etdrk2",
    order=2,
    stiff_order=2,
    c=(0.0, 1.0),
    a=((((1.0, 1, 1.0),),),),
    b=(((1.0, 1, 1.0), (-1.0, 2, 1.0)), ((1.0, 2, 1.0),)),
)

# Cox, Matthews eq. 26-29, with phi_1(z/2) (e^{z/2} - 1) / 2 = phi_1(z) - phi_1(z/2). Its stiff order is 2 (Hochbruck,
# Ostermann section 5.3); parabolic problems mostly show more, as the conditions it fails hold in a weak form.
ETDRK4 = ExponentialRungeKutta(
    "etdrk4",
    order=4,
    stiff_order=2,
    c=(0.0, HALF, HALF, 1.0),
    a=(
        (((0.5, 1, HALF),),),
        ((), ((0.5, 1, HALF),)),
        (((1.0, 1, 1.0), (-1.0, 1, HALF)), (), ((1.0, 1, HALF),)),
    ),
    b=(
        ((1.0, 1, 1.0), (-3.0, 2, 1.0), (4.0, 3, 1.0)),
        ((2.0, 2, 1.0), (-4.0, 3, 1.0)),
        ((2.0, 2, 1.0), (-4.0, 3, 1.0)),
        ((-1.0, 2, 1.0), (4.0, 3, 1.0)),
    ),
)

_A52 = ((0.5, 2, HALF), (-1.0, 3, 1.0), (0.25, 2, 1.0), (-0.5, 3, HALF))
_MINUS_A52 = tuple((-factor, k, c) for factor, k, c in _A52)

# Hochbruck, Ostermann eq. 5.19, of stiff order 4: one stage more than etdrk4 buys the full order on parabolic problems.
# a_51 = phi_{1,5} / 2 - 2 a_52 - a_54 and a_54 = phi_{2,5} / 4 - a_52.
HOCHOST4 = ExponentialRungeKutta(
    "hochost4",
    order=4,
    stiff_order=4,
    c=(0.0, HALF, HALF, 1.0, HALF),
    a=(
        (((0.5, 1, HALF),),),
        (((0.5, 1, HALF), (-1.0, 2, HALF)), ((1.0, 2, HALF),)),
        (((1.0, 1, 1.0), (-2.0, 2, 1.0)), ((1.0, 2, 1.0),), ((1.0, 2, 1.0),)),
        (
            ((0.5, 1, HALF), (-0.25, 2, HALF), *_MINUS_A52),
            _A52,
            _A52,
            ((0.25, 2, HALF), *_MINUS_A52),
        ),
    ),
    b=(
        ((1.0, 1, 1.0), (-3.0, 2, 1.0), (4.0, 3, 1.0)),
        (),
        (),
        ((-1.0, 2, 1.0), (4.0, 3, 1.0)),
        ((4.0, 2, 1.0), (-8.0, 3, 1.0)),
    ),
)
