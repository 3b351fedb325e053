"""Butcher tableaus: a Runge-Kutta method as data.

Notation of Hairer, Norsett and Wanner, "Solving Ordinary Differential Equations I" (HNW), section II.1: stages
k_i = f(t + c_i h, y + h sum_j a_ij k_j), new state y + h sum_i b_i k_i, error estimate h sum_i (b_i - bhat_i) k_i,
dense output y(t + theta h) = y + h sum_i b_i(theta) k_i (HNW section II.6).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

Row = tuple[float, ...]


@dataclass(frozen=True)
class ButcherTableau:
    """An s-stage Runge-Kutta method.

    Args:
        name: the method's name, as in `solver="dopri5"`.
        order: order of the propagated solution.
        a: s rows; row i holds a_i1 ... (trailing zeros may be left out).
        b: s weights of the new state.
        c: s nodes; each equals the sum of its row of `a`.
        b_error: s weights b - bhat of the error estimate; None for a method without an embedded one.
        interpolant: s rows of polynomial coefficients of b_i(theta) / theta in rising powers: b_i(theta) =
            sum_j interpolant[i][j] theta^(j+1). None means the cubic Hermite interpolant (order 3).

    Attributes:
        fsal: first same as last: the last stage is f at the new state, so that the next step starts with it.
    """

    name: str
    order: int
    a: tuple[Row, ...]
    b: Row
    c: Row
    b_error: Row | None = None
    interpolant: tuple[Row, ...] | None = None
    fsal: bool = field(init=False)

    def __post_init__(self) -> None:
        s = len(self.b)
        assert len(self.a) == len(self.c) == s, f"{self.name}: {s} weights need {s} rows and nodes"
        assert self.b_error is None or len(self.b_error) == s, f"{self.name}: b_error needs {s} weights"
        last = (*self.a[-1], *([0.0] * (s - len(self.a[-1]))))
        object.__setattr__(self, "fsal", s > 1 and last == self.b and self.c[-1] == 1.0)

    def __hash__(self) -> int:  # it is part of keys at every solve: not of all its numbers
        return hash((self.name, self.order, self.b))

    @property
    def stages(self) -> int:
        return len(self.b)

    @property
    def control_order(self) -> int:
        """The error estimate is taken to behave like h to this power: one more than the lower order of the pair."""
        return self.order

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""
        return self.b_error is not None

    @cached_property
    def matrix(self) -> np.ndarray:
        """`a` as a full matrix [s, s]."""
        full = np.zeros((self.stages, self.stages))
        for i, row in enumerate(self.a):
            full[i, : len(row)] = row
        return full

    @cached_property
    def hermite(self) -> np.ndarray:
        """Cubic Hermite interpolant as coefficients over the stages and f(t+h, y+): [s + (not fsal), 3]."""
        return hermite_rows(self.b if self.fsal else (*self.b, 0.0))

    @cached_property
    def linear(self) -> np.ndarray:
        """Straight line between the two states, over the stages: [s, 1]."""
        return np.array(self.b)[:, None]

    @cached_property
    def dense(self) -> np.ndarray:
        """The method's own dense output [s (+1), degree]: its published interpolant, else cubic Hermite."""
        return self.hermite if self.interpolant is None else np.array(self.interpolant)

    def stability_function(self, z: np.ndarray | complex) -> np.ndarray:
        """R(z) = 1 + z b^T (I - z a)^{-1} 1: one step of y' = lambda y at z = h lambda (HNW II, IV.3)."""
        z = np.asarray(z, dtype=complex)
        return 1 + z * self.forcing_function(z)

    def forcing_function(self, z: np.ndarray | complex) -> np.ndarray:
        """Q(z) = b^T (I - z a)^{-1} 1, so that a step of y' = lambda y + g is R(z) y + h Q(z) g; Q(0) = 1."""
        z = np.asarray(z, dtype=complex)
        system = np.eye(self.stages) - z[..., None, None] * self.matrix
        return np.linalg.solve(system, np.ones((*z.shape, self.stages, 1)))[..., 0] @ np.array(self.b)


def hermite_rows(b: Row) -> np.ndarray:
    """Cubic Hermite interpolant over stages of which the first is f at the start and the last f at the end: [s, 3].

    With y+ = y + h sum b_i k_i: b_i(theta) = (3 theta^2 - 2 theta^3) b_i + (theta - 2 theta^2 + theta^3) [i = 1]
    + (theta^3 - theta^2) [i = s].
    """
    rows = np.outer(b, [0.0, 3.0, -2.0])
    rows[0] += [1.0, -2.0, 1.0]
    rows[-1] += [0.0, -1.0, 1.0]
    return rows


def quartic_from_midpoint(b: Row, b_middle: Row) -> tuple[Row, ...]:
    """Coefficients of the quartic through y, y+, f, f+ and the midpoint y + h sum_i b_middle_i k_i, for a method with
    the first-same-as-last property (Shampine, Math. Comp. 46, 1986, section 3).
    """
    rows = np.outer(b, [0.0, -5.0, 14.0, -8.0]) + np.outer(b_middle, [0.0, 16.0, -32.0, 16.0])
    rows[0] += [1.0, -4.0, 5.0, -2.0]
    rows[-1] += [0.0, 1.0, -3.0, 2.0]
    return tuple(tuple(float(x) for x in row) for row in rows)
