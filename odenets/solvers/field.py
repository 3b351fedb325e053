"""The user's vector field as the solvers see it: one tensor in, one tensor out, calls counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .errors import InputError
from .state import StateLayout


class FlatField:
    """Wraps `func(t, x, *args)` over states laid out by `layout`.

    Args:
        func: the vector field on the user's states.
        layout: how those states lie in one tensor.
        args: further arguments handed to `func`.

    Attributes:
        nfe: calls so far.
        mass: M of M x' = func(t, x) [n, n], None for the identity.

    Raises:
        InputError: at a call, if the field's value does not have the state's structure or shape.
    """

    def __init__(self, func: Callable[..., Any], layout: StateLayout, args: tuple[Any, ...] = ()) -> None:
        self.func = func
        self.layout = layout
        self.args = args
        self.nfe = 0
        self.mass: Tensor | None = None

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.nfe += 1
        return self.evaluate(t, y)

    def evaluate(self, t: Tensor, y: Tensor) -> Tensor:
        """The same without counting: a captured loop allows no such side effect."""
        if self.layout.spec is None:
            value = self.func(t, y, *self.args)
            if not isinstance(value, Tensor):
                raise InputError(f"the vector field must return a tensor like y0, got {type(value).__name__}.")
        else:
            value = self._flat_value(self.func(t, self.layout.unflatten(y), *self.args), y)
        if value.shape != y.shape:
            value = self._expanded(value, y)
        return value if value.dtype == y.dtype else value.to(y.dtype)

    def part(self, func: Callable[..., Any]) -> FlatField:
        """A part of the vector field on the same states; its calls count as calls of this one."""
        return _Part(func, self)

    def _flat_value(self, value: Any, y: Tensor) -> Tensor:
        leaves = self.layout.leaves(value, "the vector field's value")
        lead = y.shape[:-1]
        parts = []
        for leaf, shape in zip(leaves, self.layout.shapes):
            if leaf.shape != (*lead, *shape):
                leaf = self._expanded(leaf, y.new_empty(()).expand(*lead, *shape))
            parts.append(leaf.reshape(*lead, -1))
        return torch.cat(parts, dim=-1)

    @staticmethod
    def _expanded(value: Tensor, like: Tensor) -> Tensor:
        """Broadcast to the state's shape (a field may return a constant), or say that it does not fit."""
        try:
            return value.reshape(like.shape) if value.numel() == like.numel() == 1 else value.expand(like.shape)
        except RuntimeError:
            raise InputError(
                f"the vector field must return the shape of the state {tuple(like.shape)}, got {tuple(value.shape)}."
            ) from None


class _Part(FlatField):
    def __init__(self, func: Callable[..., Any], whole: FlatField) -> None:
        super().__init__(func, whole.layout, whole.args)
        self.whole = whole

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.whole.nfe += 1
        return self.evaluate(t, y)
