"""Symplectic methods for separable fields: compositions of kicks and drifts."""

from itertools import pairwise

from ..structured.splitting import Splitting

# HLW section I.1.2, eq. 1.9; the second is its adjoint
SYMPLECTIC_EULER = Splitting("symplectic_euler", order=1, kicks=(1.0,), drifts=(1.0,))
SYMPLECTIC_EULER_DRIFT = Splitting("symplectic_euler_drift", order=1, kicks=(0.0, 1.0), drifts=(1.0,))

# Stormer-Verlet (Verlet, Phys. Rev. 159, 1967; HLW section I.1.4), velocity form: kick, drift, kick
LEAPFROG = Splitting("leapfrog", order=2, kicks=(0.5, 0.5), drifts=(1.0,))


def composed(name: str, order: int, gammas: tuple[float, ...]) -> Splitting:
    """Leapfrog steps of sizes gamma_i h one after the other; neighbouring kicks become one."""
    kicks = (gammas[0] / 2, *((a + b) / 2 for a, b in pairwise(gammas)), gammas[-1] / 2)
    return Splitting(name, order, kicks, gammas)


# Yoshida, "Construction of higher order symplectic integrators", Phys. Lett. A 150 (1990) 262-268, eq. 4.5 (also Forest,
# Ruth, Physica D 43, 1990, 105-117)
_OUTER = 1 / (2 - 2 ** (1 / 3))
YOSHIDA4 = composed("yoshida4", 4, (_OUTER, 1 - 2 * _OUTER, _OUTER))

# Yoshida 1990, table 1, solution A, to the digits of HLW eq. V.3.11
_GAMMA1, _GAMMA2, _GAMMA3 = 0.78451361047755726382, 0.23557321335935813368, -1.17767998417887100695
_MIDDLE = 1 - 2 * (_GAMMA1 + _GAMMA2 + _GAMMA3)
YOSHIDA6 = composed("yoshida6", 6, (_GAMMA1, _GAMMA2, _GAMMA3, _MIDDLE, _GAMMA3, _GAMMA2, _GAMMA1))
