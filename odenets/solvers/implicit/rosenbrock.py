"""Rosenbrock methods: one linear system per stage instead of a nonlinear one, all with the same matrix.

In the form without products of the Jacobian and a vector (HW II, section IV.7), for M y' = f(t, y) with J = df/dy and
T = df/dt at the start of the step, and v_i the stages divided by h so that a step of size zero is harmless:

    (M - h gamma J) v_i = gamma f(t + c_i h, y + h sum_j a_ij v_j) + gamma M sum_j coupling_ij v_j + gamma time_i h T
    y+ = y + h sum_i b_i v_i

The order rests on J and T being exact and at the present step, so both are formed anew at every step: n products with
tangents for J (n the size of one system) and one for T. Gradients flow through J, T and the linear solves as
through any tensor operation: they are those of the discrete step, to rounding, for the price of second derivatives of
the field: about n more backward passes through the field per step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..one_step import Accuracy, BoundMethod
from ..step import Field, StepSize, Trial, add_scaled, weighted_sum
from ..tableau import Row, hermite_rows
from .linear import ShiftedLU, moving, over_systems
from .slopes import Slopes


@dataclass(frozen=True)
class RosenbrockTableau:
    """An s-stage Rosenbrock method in the form above.

    Args:
        name: as in `solver=`.
        order: order of the propagated solution.
        gamma: the diagonal coefficient.
        a, coupling: s rows each; row i holds a_i1 ... a_i,i-1.
        b: s weights of the new state.
        b_error: s weights of the error estimate.
        c: s nodes.
        time: s coefficients of h T.
        curvature: rows H_j [s] of the dense output
            y + theta h sum_i v_i (b_i + (1 - theta) (H_1i + theta H_2i + ...)).
    """

    name: str
    order: int
    gamma: float
    a: tuple[Row, ...]
    coupling: tuple[Row, ...]
    b: Row
    b_error: Row
    c: Row
    time: Row
    curvature: tuple[Row, ...]

    fsal = False
    adaptive = True
    takes_mass = True
    integrates_adjoints = False  # the adjoint's field has no Jacobian that autograd could form

    def __hash__(self) -> int:  # as of `ButcherTableau`
        return hash((self.name, self.order, self.b))

    @property
    def stages(self) -> int:
        return len(self.b)

    @property
    def control_order(self) -> int:
        return self.order

    # The stages of a trial are f at the start, then v_1 ... v_s.

    @cached_property
    def dense(self) -> np.ndarray:
        """b_i(theta) / theta in rising powers [1 + s, degree], for f at the start and the v_i."""
        rows = np.zeros((1 + self.stages, len(self.curvature) + 1))
        rows[1:, 0] = self.b
        for power, row in enumerate(self.curvature):
            rows[1:, power] += row
            rows[1:, power + 1] -= row
        return rows

    @cached_property
    def hermite(self) -> np.ndarray:
        return hermite_rows((0.0, *self.b, 0.0))

    @cached_property
    def linear(self) -> np.ndarray:
        return np.array([0.0, *self.b])[:, None]

    @cached_property
    def standard_form(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(alpha, Gamma, b) of HW II, section IV.7: the form in which the order conditions are stated."""
        a, coupling = (np.zeros((self.stages, self.stages)) for _ in range(2))
        for i in range(self.stages):
            a[i, :i], coupling[i, :i] = self.a[i], self.coupling[i]
        big_gamma = np.linalg.inv(np.eye(self.stages) / self.gamma - coupling)
        return a @ big_gamma, big_gamma, np.array(self.b) @ big_gamma

    def stability_function(self, z: np.ndarray | complex) -> np.ndarray:
        """R(z): one step of y' = lambda y at z = h lambda (HW II, section IV.7)."""
        z = np.asarray(z, dtype=complex)
        alpha, big_gamma, b = self.standard_form
        system = np.eye(self.stages) - z[..., None, None] * (alpha + big_gamma)
        return 1 + z * (np.linalg.solve(system, np.ones((*z.shape, self.stages, 1)))[..., 0] @ b)

    def bind(self, field: Field, accuracy: Accuracy) -> BoundMethod:
        return Rosenbrock(self, field, accuracy)


class Rosenbrock(BoundMethod):
    """A Rosenbrock method on a field, whose `mass` (if it has one) is M.

    The linear systems are those of one sample where the samples of a batch do not influence each other (which is found
    out by trying, once), else of the whole state.
    """

    cause = "the matrix M - h gamma J is singular"

    def __init__(self, tableau: RosenbrockTableau, field: Field, accuracy: Accuracy) -> None:
        self.tableau, self.field = tableau, field
        self.mass: Tensor | None = getattr(field, "mass", None)
        self.slopes = Slopes(field, 1 if accuracy.per_sample else None)
        self.per_sample = accuracy.per_sample
        self._start: Tensor | None = None

    def trial(
        self, times: Sequence[Tensor], h: StepSize, y: Tensor, derivative: Callable[[], Tensor], with_error: bool = True
    ) -> Trial:
        tableau = self.tableau
        if y.is_complex():
            raise InputError(f"{tableau.name} needs real states, got {y.dtype}; pass torch.view_as_real of them.")
        f0 = derivative()
        if self._start is not y:  # a refused step is tried again from the same state
            self._jacobian, self._slope = self.slopes(times[0], y)
            self._start = y
        jacobian, slope = self._jacobian, self._slope
        system = jacobian.shape[:-1]  # [*batch, D]
        mass = None if self.mass is None else over_systems(self.mass, system[-1])
        lu = ShiftedLU(jacobian, shift(h, tableau.gamma), mass)
        stages: list[Tensor] = []
        for i in range(tableau.stages):
            value = f0
            if i:
                value = self.field(times[i], add_scaled(y, h, weighted_sum(tableau.a[i], stages)))
            rhs = value if tableau.time[i] == 0 else add_scaled(value, h * tableau.time[i], slope)
            coupled = weighted_sum(tableau.coupling[i], stages)
            if coupled is not None:
                rhs = rhs + (coupled if self.mass is None else coupled @ self.mass.mT)
            stages.append(lu.solve((rhs * tableau.gamma).reshape(system)).reshape(y.shape))
        y1 = add_scaled(y, h, weighted_sum(tableau.b, stages))
        error = None
        if with_error:
            error = weighted_sum(tableau.b_error, stages)
            assert error is not None
            error = error * h
        # NaN in the field is another cause, and shows in the error
        failed = lu.singular & torch.isfinite(jacobian).all(-1).all(-1)
        return Trial(y1, error, [f0, *stages], failed if self.per_sample else bool(failed.any()))

    def largest_eigenvalue(self) -> float:
        """Of the last Jacobian, in modulus, over all systems."""
        jacobian = self._jacobian.detach()
        if not bool(torch.isfinite(jacobian).all()):
            return math.inf
        return float(torch.linalg.eigvals(jacobian).abs().max())


def shift(h: StepSize, gamma: float) -> float | Tensor:
    """h gamma as `ShiftedLU` takes it: a number, or [batch]; samples that stand still (h = 0) get a harmless one."""
    return (moving(h.reshape(-1)) if isinstance(h, Tensor) and h.dim() else h) * gamma
