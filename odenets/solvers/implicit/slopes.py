"""The derivatives of a field with respect to state and time at one point, through which gradients flow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import jvp, vmap

from ..step import Field, carries_derivative
from .linear import Linearisation

_FEW = 16  # up to this size of a system, rows one by one are faster than setting up `vmap`


class Slopes:
    """(t, y) -> df/dy [*batch, D, D] and df/dt (shaped like y), exact.

    Small systems are differentiated backwards, row by row; for large ones all tangents go through the field at once
    (forward mode under `vmap`), unless the field does not allow it. Neither counts as evaluations. Where gradients are
    recorded the result is part of their graph.

    Args:
        field: f(t, y) -> dy/dt, shaped like y; real.
        batch_dims: leading dimensions of y that number separate systems; None finds out whether the first one does.
    """

    def __init__(self, field: Field, batch_dims: int | None = None) -> None:
        self.field = getattr(field, "evaluate", field)
        self.batch_dims = batch_dims
        self._forward = True

    def __call__(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if self.batch_dims is None:
            self.batch_dims = int(Linearisation(self.field).independent(t, y))
        if self._forward and y.shape[self.batch_dims :].numel() > _FEW:
            try:
                return self._by_tangents(t, y)
            except (RuntimeError, NotImplementedError, TypeError):
                self._forward = False
        return self._by_rows(t, y)

    def _unit_vectors(self, y: Tensor) -> Tensor:
        state = y.shape[self.batch_dims :]
        return torch.eye(state.numel(), dtype=y.dtype, device=y.device).reshape(-1, *state)

    def _by_tangents(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        units = self._unit_vectors(y)
        units = torch.cat([units, torch.zeros_like(units[:1])])  # [D + 1, *state]: the last one goes along t
        along_t = torch.zeros(len(units), dtype=t.dtype, device=t.device)
        along_t[-1] = 1

        def product(unit: Tensor, along: Tensor) -> Tensor:
            return jvp(self.field, (t, y), (along.expand_as(t), unit.expand_as(y)))[1]

        columns = vmap(product)(units, along_t)  # [D + 1, *batch, *state]
        batch = y.shape[: self.batch_dims]
        return columns[:-1].reshape(len(units) - 1, *batch, -1).movedim(0, -1), columns[-1]

    def _by_rows(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        keep = torch.is_grad_enabled() and (carries_derivative(y) or carries_derivative(t) or self._learns(t, y))
        batch = y.shape[: self.batch_dims]
        with torch.enable_grad():
            time = t if t.requires_grad else t.detach().requires_grad_(True)
            state = y if y.requires_grad else y.detach().requires_grad_(True)
            value = self.field(time, state)
            if not value.requires_grad:
                size = y.shape[self.batch_dims :].numel()
                return y.new_zeros(*batch, size, size), torch.zeros_like(y)
            weight = torch.zeros_like(value, requires_grad=True)
            rows = [
                torch.autograd.grad(
                    value, state, unit.expand_as(y), create_graph=keep, retain_graph=True, materialize_grads=True
                )[0].reshape(*batch, -1)
                for unit in self._unit_vectors(y)
            ]
            # d/dw of d<f, w>/dt: the derivative along t of every component by two backward passes
            (pulled,) = torch.autograd.grad(value, time, weight, create_graph=True, materialize_grads=True)
            slope = torch.zeros_like(y)
            if pulled.requires_grad:
                ones = torch.ones_like(pulled)
                (slope,) = torch.autograd.grad(pulled, weight, ones, create_graph=keep, materialize_grads=True)
        jacobian = torch.stack(rows, dim=-2)
        return (jacobian, slope) if keep else (jacobian.detach(), slope.detach())

    def _learns(self, t: Tensor, y: Tensor) -> bool:
        """Whether the field depends on anything that requires gradients besides t and y."""
        return self.field(t.detach(), y.detach()).requires_grad
