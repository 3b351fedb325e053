"""A vector field with a constant linear part, which exponential methods integrate exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import InputError


class SemilinearField(nn.Module):
    """f(t, x) = L x + N(t, x), for etd1, etdrk2, etdrk4 and hochost4. Every other solver sees the sum.

    Args:
        linear: L, constant in t and x; put there what makes the problem stiff or oscillating (diffusion, dispersion).
            It acts on the last dimension of x [..., D]: a matrix [D, D], a diagonal [D], or one matrix per sample
            [B, D, D] with x [B, ..., D] (and so on for more leading dimensions); complex with complex states. For a
            tree of states a tree of them. An `nn.Parameter` is learned, a plain tensor is a buffer.
        nonlinear: N(t, x, *args) -> like x, a function or a module.
        diagonal: whether `linear` holds diagonals, of any shape that broadcasts against x (rates per sample [B, D], or
            a symbol over the modes of a spectral method); None: where it has one dimension.
        axis: the dimension of x that matrices act on: -1, or -2 for x [..., D, C].

    Raises:
        InputError: `linear` is no floating-point or complex tensor of one of these shapes.
    """

    def __init__(
        self, linear: Any, nonlinear: Callable[..., Any], diagonal: bool | None = None, axis: int = -1
    ) -> None:
        super().__init__()
        if axis not in (-1, -2):
            raise InputError(f"axis must be -1 or -2, the dimension that matrices act on, got {axis}.")
        self.axis = axis
        leaves, self._spec = pytree.tree_flatten(linear)
        self._diagonal = [_is_diagonal(leaf, diagonal) for leaf in leaves]
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, nn.Parameter):
                self.register_parameter(f"linear_{i}", leaf)
            else:
                self.register_buffer(f"linear_{i}", leaf)
        self.nonlinear = nonlinear

    def linear_parts(self) -> list[tuple[Tensor, bool]]:
        """(L, whether it is a diagonal) for every tensor of the state."""
        return [(getattr(self, f"linear_{i}"), diagonal) for i, diagonal in enumerate(self._diagonal)]

    def forward(self, t: Tensor, x: Any, *args: Any) -> Any:
        leaves, spec = pytree.tree_flatten(x)
        linear = [apply(part, leaf, diagonal, self.axis) for (part, diagonal), leaf in zip(self.linear_parts(), leaves)]
        return pytree.tree_map(torch.add, pytree.tree_unflatten(linear, spec), self.nonlinear(t, x, *args))


def apply(linear: Tensor, x: Tensor, diagonal: bool, axis: int = -1) -> Tensor:
    """The product of a diagonal, a matrix [D, E] or matrices [*lead, D, E] with x [*lead, ..., E] (axis = -1) or
    x [*lead, ..., E, C] (axis = -2).
    """
    linear = linear if linear.dtype == x.dtype else linear.to(torch.promote_types(linear.dtype, x.dtype))
    if diagonal:
        return linear * x
    if axis == -2:
        return apply(linear, x.mT, False).mT
    if linear.dim() == 2:
        return x @ linear.mT
    rows = x.reshape(*linear.shape[:-2], -1, x.shape[-1]) @ linear.mT
    return rows.reshape(*x.shape[:-1], linear.shape[-2])


def _is_diagonal(linear: Any, diagonal: bool | None) -> bool:
    if not isinstance(linear, Tensor) or not (linear.is_floating_point() or linear.is_complex()):
        kind = linear.dtype if isinstance(linear, Tensor) else type(linear).__name__
        raise InputError(f"linear must be a floating-point or complex tensor, or a tree of them, got {kind}.")
    if diagonal or (diagonal is None and linear.dim() == 1):
        return True
    if linear.dim() < 2 or linear.shape[-1] != linear.shape[-2]:
        raise InputError(
            f"linear must be a matrix [D, D], a diagonal [D] or matrices [B, D, D], got {list(linear.shape)}; for "
            "diagonals of other shapes say diagonal=True."
        )
    return False
