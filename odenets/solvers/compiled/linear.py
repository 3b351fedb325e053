"""Jacobians and linear systems of implicit steps as pure tensor code, for loops that a compiler takes whole.

A state [*batch, *state] is a batch of separate systems of D = numel([*state]) elements, as in `implicit.linear`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.func import vjp, vmap

from ..step import Field

WRITTEN_OUT = 4  # up to this size elimination is written out by elements, which the compiler fuses over the batch
INVERTED = 32  # up to this size one inverse costs less than calling LAPACK for every right-hand side


def slopes(field: Field, t: Tensor, y: Tensor, batch_dims: int, along_time: bool) -> tuple[Tensor, Tensor | None]:
    """df/dy [*batch, D, D] and, where wanted, df/dt (shaped like y), exact.

    All rows of the Jacobian are pulled back at once. df/dt pulls back twice: the transpose of the map that pulls back to t.
    Forward mode would be shorter, but in captured code it takes the size of a batch for a constant.
    """
    batch, state = y.shape[:batch_dims], y.shape[batch_dims:]
    size = state.numel()
    units = torch.eye(size, dtype=y.dtype, device=y.device)
    pull = vjp(lambda x: field(t, x), y)[1]
    rows = vmap(lambda unit: pull(unit.reshape(state).expand_as(y))[0])(units)  # [D, *batch, *state]
    jacobian = rows.reshape(size, *batch, size).movedim(0, -2)
    if not along_time:
        return jacobian, None
    back_to_time = vjp(lambda time: field(time, y), t)[1]
    return jacobian, vjp(lambda weight: back_to_time(weight)[0], torch.zeros_like(y))[1](torch.ones_like(t))[0]


class Factors(Protocol):
    """Attributes: singular [*batch] bool: a pivot is zero or not finite."""

    singular: Tensor

    def solve(self, rhs: Tensor) -> Tensor:
        """x [*batch, D] for the right-hand sides [*batch, D]."""
        ...


def factorised(jacobian: Tensor, shift: Tensor) -> Factors:
    """I - c J for Jacobians [*batch, D, D] and shifts c, [] or [*batch]."""
    size = jacobian.shape[-1]
    if size <= WRITTEN_OUT:
        return Elimination([[float(i == j) - shift * jacobian[..., i, j] for j in range(size)] for i in range(size)])
    identity = torch.eye(size, dtype=jacobian.dtype, device=jacobian.device)
    matrix = identity - shift[..., None, None] * jacobian
    return Inverse(matrix) if size <= INVERTED else LU(matrix)


class Elimination:
    """Gaussian elimination written out: rows change places by selection, so that a batch stays together.

    Args:
        matrix: rows of elements, each [*batch].
    """

    def __init__(self, matrix: list[list[Tensor]]) -> None:
        size = len(matrix)
        a = [list(row) for row in matrix]
        self.swaps: list[list[Tensor]] = []
        self.pivots: list[Tensor] = []
        singular = torch.zeros_like(a[0][0], dtype=torch.bool)
        for k in range(size):
            swaps = []
            for i in range(k + 1, size):
                larger = a[i][k].abs() > a[k][k].abs()
                swaps.append(larger)
                for j in range(k, size):
                    a[k][j], a[i][j] = torch.where(larger, a[i][j], a[k][j]), torch.where(larger, a[k][j], a[i][j])
            self.swaps.append(swaps)
            singular = singular | (a[k][k] == 0) | ~torch.isfinite(a[k][k])
            inverse = 1.0 / a[k][k]
            self.pivots.append(inverse)
            for i in range(k + 1, size):
                a[i][k] = a[i][k] * inverse
                for j in range(k + 1, size):
                    a[i][j] = a[i][j] - a[i][k] * a[k][j]
        self.a, self.singular = a, singular

    def solve(self, rhs: Tensor) -> Tensor:
        x, size = list(rhs.unbind(-1)), len(self.a)
        for k in range(size):
            for i, larger in enumerate(self.swaps[k], k + 1):
                x[k], x[i] = torch.where(larger, x[i], x[k]), torch.where(larger, x[k], x[i])
            for i in range(k + 1, size):
                x[i] = x[i] - self.a[i][k] * x[k]
        for i in reversed(range(size)):
            for j in range(i + 1, size):
                x[i] = x[i] - self.a[i][j] * x[j]
            x[i] = x[i] * self.pivots[i]
        return torch.stack(x, -1)


class Inverse:
    """The inverses of matrices [*batch, D, D]; what a solution leaves is solved for once more, without which it could have
    residuals that elimination would not leave (Higham, Accuracy and Stability of Numerical Algorithms, section 14.1).
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.inverse, info = torch.linalg.inv_ex(matrix)
        self.singular = (info != 0) | ~torch.isfinite(self.inverse).all(-1).all(-1)

    def solve(self, rhs: Tensor) -> Tensor:
        x = _times(self.inverse, rhs)
        return x + _times(self.inverse, rhs - _times(self.matrix, x))


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    return (matrix * x.unsqueeze(-2)).sum(-1)


class LU:
    """LAPACK's factors of matrices [*batch, D, D]."""

    def __init__(self, matrix: Tensor) -> None:
        self.factors, self.rows, _ = torch.linalg.lu_factor_ex(matrix)
        diagonal = self.factors.diagonal(dim1=-2, dim2=-1)
        self.singular = ~((diagonal != 0) & torch.isfinite(diagonal)).all(-1)

    def solve(self, rhs: Tensor) -> Tensor:
        return torch.linalg.lu_solve(self.factors, self.rows, rhs.unsqueeze(-1)).squeeze(-1)
