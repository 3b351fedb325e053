"""Dense references in numpy and scipy: R(hA) and Q(hA) from their definitions, not from coefficients."""

import numpy as np
import scipy.linalg
import torch

from odenets.flows.registry import RADAU_IIA3
from odenets.solvers import TABLEAUS, ButcherTableau

ROOT3 = 3**0.5
BY_TABLEAU = {
    "forward_euler": TABLEAUS["euler"],
    "backward_euler": ButcherTableau("backward_euler", 1, a=((1.0,),), b=(1.0,), c=(1.0,)),
    "implicit_midpoint": ButcherTableau("implicit_midpoint", 2, a=((0.5,),), b=(1.0,), c=(0.5,)),
    "trapezoid": ButcherTableau("trapezoid", 2, a=((0.0,), (0.5, 0.5)), b=(0.5, 0.5), c=(0.0, 1.0)),
    "theta(0.7)": ButcherTableau("theta", 1, a=((0.7,),), b=(1.0,), c=(0.7,)),
    "radau_iia3": RADAU_IIA3,
    "rk2": TABLEAUS["midpoint"],
    **TABLEAUS,
}
GAUSS4 = ButcherTableau(
    "gl4",
    4,
    a=((1 / 4, 1 / 4 - ROOT3 / 6), (1 / 4 + ROOT3 / 6, 1 / 4)),
    b=(1 / 2, 1 / 2),
    c=(1 / 2 - ROOT3 / 6, 1 / 2 + ROOT3 / 6),
)
SCHEME_NAMES = (
    "forward_euler", "backward_euler", "implicit_midpoint", "exponential", "theta(0.7)", "radau_iia3", "rk2", "heun3",
    "rk4", "dopri5",
)  # fmt: skip


def dense_functions(name: str, m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R(m), Q(m) for one square matrix: the tableau's stage equations as one Kronecker system, or scipy's exponential
    with phi_1(m) = int_0^1 e^{s m} ds by Gauss quadrature."""
    n = len(m)
    if name == "exponential":
        nodes, weights = np.polynomial.legendre.leggauss(24)
        powers = scipy.linalg.expm(np.append((nodes + 1) / 2, 1)[:, None, None] * m)
        return powers[-1], np.tensordot(weights / 2, powers[:-1], axes=1)
    tableau = BY_TABLEAU[name]
    s = tableau.stages
    stages = np.linalg.solve(np.eye(s * n) - np.kron(tableau.matrix, m), np.kron(np.ones((s, 1)), np.eye(n)))
    q = np.kron(np.array(tableau.b), np.eye(n)) @ stages
    return np.eye(n) + m @ q, q


def dense_step(name: str, h: float, a: torch.Tensor, x: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
    """R(hA) x + h Q(hA) b for one dense A [m, m] and x [m] or [m, c]."""
    r, q = (torch.from_numpy(part) for part in dense_functions(name, h * a.numpy()))
    return r @ x if b is None else r @ x + h * (q @ b)
