"""Kvaerno 5(4): ESDIRK, seven stages, both methods stiffly accurate, the propagated one L-stable.

Kvaerno, BIT 44 (2004), section 4, gamma = 0.26.

The paper has no dense output; cubic Hermite interpolation lags behind a method of order 5. The quartics below satisfy all
conditions of order 4 at every theta and have the slopes f at both ends. That leaves two parameters, which make the
multiple of h lambda by which a stiff component enters, b_1(theta) - sum_{i>1} b_i(theta) (A^{-1} a_1)_i with A the
matrix of the implicit stages and a_1 their column of the first, least in the mean square over the step.
"""

from ..tableau import ButcherTableau

_G = 0.26
_EMBEDDED = (0.13855640231268224, 0.0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676, _G)
_B = (
    0.13659751177640291, 0.0, -0.05496908796538376, -0.04118626728321046, 0.62993304899016403, 0.06962479448202728, _G,
)  # fmt: skip
_A = (
    (),
    (_G, _G),
    (0.13, 0.84033320996790809, _G),
    (0.22371961478320505, 0.47675532319799699, -0.06470895363112615, _G),
    (0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998, _G),
    _EMBEDDED,
    _B,
)

_INTERPOLANT = (
    (1.0, -2.1212171161615117, 1.788824279428629, -0.5310096514907162),
    (0.0, 0.0, 0.0, 0.0),
    (0.0, 0.528507172385392, -1.2768906966323064, 0.6934144362815362),
    (0.0, -2.3148533884557887, 4.464961707778742, -2.191294586606161),
    (0.0, 3.5206065238011517, -4.521480851641707, 1.6308073768306965),
    (0.0, 0.65944972201555, -1.040400266103014, 0.4505753385694815),
    (0.0, -0.2724929135848296, 0.5849858271696479, -0.05249291358482405),
)

KVAERNO5 = ButcherTableau(
    "kvaerno5",
    5,
    a=_A,
    b=_B,
    c=(0.0, 0.52, 1.23033320996790809, 0.89576598435007590, 0.43639360985864756, 1.0, 1.0),
    b_error=tuple(b - e for b, e in zip(_B, (*_EMBEDDED, 0.0))),
    interpolant=_INTERPOLANT,
)
