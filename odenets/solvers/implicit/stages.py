"""The equations of an implicit Runge-Kutta step: k_i = f(t_i, y + h sum_j a_ij k_j), for the stages solved together.

All stages of a fully implicit method are one block, with the whole matrix A; a diagonally implicit method has a block of
one stage after the other, with `base` = y + h times the known stages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..step import Field, StepSize
from .linear import Linearisation, moving, over_systems


@dataclass(frozen=True)
class StageEquations:
    """One block of stages k [s, *state].

    Args:
        field: f(t, y).
        times: t_i, s of them, each [] or [batch].
        h: step size, a float, [] or [batch, 1, ...].
        base: the state that the increments are added to [*state].
        matrix: the block's a_ij [s, s].
        mass: M [n, n] of M k_i = f(...) on states [..., n]; None is the identity.
    """

    field: Field
    times: Sequence[Tensor]
    h: StepSize
    base: Tensor
    matrix: np.ndarray
    mass: Tensor | None = None

    def increments(self, k: Tensor) -> Tensor:
        """h sum_j a_ij k_j [s, *state]."""
        if len(self.matrix) == 1:
            return k * (self.h * float(self.matrix[0, 0]))
        weights = torch.from_numpy(self.matrix).to(k)
        return torch.tensordot(weights, k, dims=1) * self.h

    def slopes(self, k: Tensor) -> Tensor:
        """f at every stage's state [s, *state]."""
        states = self.base + self.increments(k)
        if len(self.times) == 1:
            return self.field(self.times[0], states[0])[None]
        return torch.stack([self.field(t, y) for t, y in zip(self.times, states)])

    def weighed(self, k: Tensor) -> Tensor:
        """M k."""
        return k if self.mass is None else k @ self.mass.mT

    def residual(self, k: Tensor) -> Tensor:
        """f - M k [s, *state]."""
        return self.slopes(k) - self.weighed(k)

    def detached(self) -> StageEquations:
        h = self.h.detach() if isinstance(self.h, Tensor) else self.h
        times = [t.detach() for t in self.times]
        mass = None if self.mass is None else self.mass.detach()
        return StageEquations(self.field, times, h, self.base.detach(), self.matrix, mass)

    # The matrix of the linearised equations, I (x) M - h A (x) J with J_i = df/dy at the i-th stage's state

    def dense(self, line: Linearisation, k: Tensor, batch_dims: int) -> Tensor:
        """That matrix for every system [*batch, s D, s D]; row block i, column block j: delta_ij M - h a_ij J_i."""
        states = self.base + self.increments(k)
        jacobians = [line.matrix(t, y, batch_dims) for t, y in zip(self.times, states)]
        size, s = jacobians[0].shape[-1], len(self.matrix)
        h = self.h
        if isinstance(h, Tensor) and h.dim():
            h = moving(h).reshape(*states.shape[1 : 1 + batch_dims], 1, 1)
        rows = [torch.cat([j * (-h * float(a)) for a in row], dim=-1) for j, row in zip(jacobians, self.matrix)]
        matrix = torch.cat(rows, dim=-2)
        assert matrix.shape[-1] == s * size
        if self.mass is not None:
            return matrix + over_systems(self.mass, s * size)
        matrix.diagonal(dim1=-2, dim2=-1).add_(1)
        return matrix

    def product(self, line: Linearisation, k: Tensor) -> Callable[[Tensor], Tensor]:
        """v [s, *state] -> that matrix times v, by one Jacobian-vector product per stage."""
        states = self.base + self.increments(k)

        def apply(v: Tensor) -> Tensor:
            moves = self.increments(v)
            return self.weighed(v) - torch.stack(
                [line.jvp(t, y, move) for t, y, move in zip(self.times, states, moves)]
            )

        return apply

    def transposed_product(self, line: Linearisation, k: Tensor) -> Callable[[Tensor], Tensor]:
        """v [s, *state] -> the transposed matrix times v, by one vector-Jacobian product per stage."""
        states = self.base + self.increments(k)
        pulls = [line.pullback(t, y) for t, y in zip(self.times, states)]
        transposed = StageEquations(self.field, self.times, self.h, self.base, self.matrix.T)

        def apply(v: Tensor) -> Tensor:
            weighed = v if self.mass is None else v @ self.mass
            return weighed - transposed.increments(torch.stack([pull(x) for pull, x in zip(pulls, v)]))

        return apply


def by_system(k: Tensor, batch_dims: int) -> Tensor:
    """Stages k [s, *batch, *state] as [B, s D], the form in which systems are solved."""
    shape = k.shape[1 : 1 + batch_dims]
    return k.reshape(len(k), shape.numel(), -1).transpose(0, 1).reshape(shape.numel(), -1)


def by_stage(x: Tensor, like: Tensor) -> Tensor:
    """The inverse of `by_system`: [B, s D] -> the shape of `like` [s, *batch, *state]."""
    return x.reshape(len(x), len(like), -1).transpose(0, 1).reshape(like.shape)
