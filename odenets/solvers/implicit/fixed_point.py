"""Fixed-point iteration k <- f(t, y + h A k) with Anderson acceleration: no derivatives of the field at all.

Walker and Ni, "Anderson acceleration for fixed-point iterations", SIAM J. Numer. Anal. 49 (2011): of the last m updates
the combination that makes the residual smallest. It converges where h times the Lipschitz constant is moderate, or
where few directions are stiff; elsewhere it says that it does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..one_step import Accuracy
from ..step import Field, StepSize
from .nonlinear import Nonlinear, Solved, StageSolver, bookkeeping_shape, where_samples
from .stages import StageEquations, by_stage, by_system


@dataclass(frozen=True)
class FixedPoint(Nonlinear):
    """Anderson-accelerated fixed-point iteration; see `Nonlinear` for the other settings.

    Args:
        memory: earlier updates that are combined; 0 is the plain iteration.
        damping: share of the residual that is added, 1 is undamped.
    """

    max_iterations: int = 50
    memory: int = 5
    damping: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory < 0 or not 0 < self.damping <= 1:
            raise InputError(f"need memory >= 0 and damping in (0, 1], got {self.memory} and {self.damping}.")

    def bind(self, field: Field, accuracy: Accuracy, matrix: np.ndarray) -> StageSolver:
        if getattr(field, "mass", None) is not None:
            raise InputError("FixedPoint does not solve M y' = f: use Newton() or NewtonKrylov().")
        return FixedPointSolver(self, field, accuracy, matrix)


class FixedPointSolver(StageSolver):
    """Nothing is kept from one step to the next."""

    def begin(self, t: Tensor, y: Tensor, h: StepSize) -> None:
        self.y = y
        self.dims = self.batch_dims(t, y)
        self.inverse_scale = self.scale(y)

    def solve(self, equations: StageEquations, guess: Tensor, robust: bool = False) -> Solved:
        shape = bookkeeping_shape(self.accuracy, self.y)
        active, failed = np.ones(shape, bool), np.zeros(shape, bool)
        history = _History(self.settings.memory)
        k, smallest, kappa = guess, np.full(shape, np.inf), self.kappa(self.y)
        for _ in range(self.settings.max_iterations):
            residual = equations.slopes(k) - k
            self.work.iterations += 1
            moves = equations.increments(residual)
            size = self.size(moves, self.inverse_scale)
            with np.errstate(invalid="ignore"):
                # the residual overstates the error of a stable mode and is near it otherwise
                good = (size <= 0.1 * kappa) | self.rounding(moves, equations.base)
                bad = active & ~(size < 1e4 * smallest)
                smallest = np.fmin(smallest, np.maximum(size, 1e-300))
            if bad.any():
                self.cause = "the fixed-point iteration diverged: the step is too large for it; use Newton"
            update = history.step(by_system(k, self.dims), by_system(residual, self.dims), self.settings.damping)
            k = where_samples(active & ~bad, by_stage(update, k), k)
            failed |= bad
            active &= ~(good | bad)
            if not active.any():
                return Solved(k, failed)
        limit = self.settings.max_iterations
        self.cause = f"the fixed-point iteration did not converge in {limit} updates: use Newton for stiff fields"
        return Solved(k, failed | active)

    def filtered(self, error: Tensor, shift: float) -> Tensor:
        return error  # where this iteration converges nothing is stiff


class _History:
    """The last iterates and residuals, [B, n] each, as differences."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.moves: list[Tensor] = []
        self.changes: list[Tensor] = []
        self.last: tuple[Tensor, Tensor] | None = None

    def step(self, x: Tensor, residual: Tensor, damping: float) -> Tensor:
        """The next iterate [B, n]."""
        if self.last is not None and self.memory:
            self.moves = [*self.moves, x - self.last[0]][-self.memory :]
            self.changes = [*self.changes, residual - self.last[1]][-self.memory :]
        self.last = (x, residual)
        if not self.changes:
            return x + damping * residual
        changes, moves = torch.stack(self.changes, -1), torch.stack(self.moves, -1)  # [B, n, m]
        weights = _least_squares(changes, residual)
        return x + damping * residual - ((moves + damping * changes) @ weights.unsqueeze(-1)).squeeze(-1)


def _least_squares(matrix: Tensor, rhs: Tensor) -> Tensor:
    """argmin |matrix w - rhs| [B, m], slightly regularised: the columns become parallel as the iteration converges."""
    scale = torch.linalg.vector_norm(matrix, dim=1, keepdim=True)  # [B, 1, m]
    columns = matrix / scale.where(scale > 0, 1.0)
    gram = columns.mT @ columns
    gram.diagonal(dim1=-2, dim2=-1).add_(1e3 * torch.finfo(matrix.dtype).eps)
    weights, _ = torch.linalg.solve_ex(gram, (columns.mT @ rhs.unsqueeze(-1)))
    return (weights.squeeze(-1) / scale.squeeze(1).where(scale.squeeze(1) > 0, 1.0)).nan_to_num(0.0, 0.0, 0.0)
