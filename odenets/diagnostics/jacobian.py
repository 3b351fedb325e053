"""The Jacobian of a map as an operator: products with it and with its transpose, one matrix per sample."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten


class Jacobian:
    """dF/dx [B, m, n] at x for a map F that treats the samples of a batch one by one.

    The samples must not look at each other (no batch statistics): then one product with the whole batch is a product
    per sample. Nothing is stored but x; a product costs an evaluation of F and its derivative.

    Args:
        map: F, x -> y; x and y are tensors [B, ...] or (named) tuples of them, flattened per sample.
        state: x. A tuple's leaves must share B.

    Attributes:
        state, value: x and F(x) as matrices [B, n] and [B, m].
    """

    def __init__(self, map: Callable[[Any], Any], state: Any):
        self.map = map
        leaves, self._spec = tree_flatten(state)
        self._shapes = [leaf.shape for leaf in leaves]
        self.state = flatten(state).detach()
        with torch.no_grad(), plain_attention():
            self.value = self._call(self.state)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, m, n)."""
        return (len(self.state), self.value.shape[1], self.state.shape[1])

    def apply(self, v: Tensor) -> Tensor:
        """J v [B, m] for v [B, n], by forward differentiation; by two backward passes where a part of F has none."""
        try:
            with plain_attention(), torch.no_grad(), forward_ad.dual_level():
                dual = self._call(forward_ad.make_dual(self.state, v.to(self.state.dtype)))
                tangent = forward_ad.unpack_dual(dual).tangent
                return torch.zeros_like(self.value) if tangent is None else tangent
        except NotImplementedError:
            return self._apply_backward(v)

    def transpose(self, u: Tensor) -> Tensor:
        """J^T u [B, n] for u [B, m]."""
        with plain_attention(), torch.enable_grad():
            x = self.state.clone().requires_grad_()
            y = self._call(x)
            return _grad(y, x, u.to(y.dtype))

    def dense(self) -> Tensor:
        """J [B, m, n], row by row: m backward passes."""
        with plain_attention(), torch.enable_grad():
            x = self.state.clone().requires_grad_()
            y = self._call(x)
            rows = []
            for i in range(y.shape[1]):
                unit = torch.zeros_like(y)
                unit[:, i] = 1
                rows.append(_grad(y, x, unit, keep=True))
        return torch.stack(rows, dim=1)

    def _apply_backward(self, v: Tensor) -> Tensor:
        """J v as the derivative of u -> J^T u, which is linear in u."""
        with plain_attention(), torch.enable_grad():
            x = self.state.clone().requires_grad_()
            y = self._call(x)
            u = torch.zeros_like(y, requires_grad=True)
            if not y.requires_grad:
                return torch.zeros_like(y)
            (pulled,) = torch.autograd.grad(y, x, u, create_graph=True)
            return _grad(pulled, u, v.to(y.dtype))

    def _call(self, x: Tensor) -> Tensor:
        pieces = x.split([shape[1:].numel() for shape in self._shapes], dim=1)
        leaves = [piece.reshape(shape) for piece, shape in zip(pieces, self._shapes)]
        return flatten(self.map(tree_unflatten(leaves, self._spec)))


def flatten(state: Any) -> Tensor:
    """A state of tensors [B, ...] as one matrix [B, n].

    Raises:
        ValueError: its leaves are not floating point tensors with one batch size.
    """
    leaves, _ = tree_flatten(state)
    if not leaves or any(not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() == 0 for x in leaves):
        raise ValueError(f"expected a state of floating point tensors [B, ...], got {type(state).__name__}")
    if len({len(leaf) for leaf in leaves}) != 1:
        raise ValueError(f"the parts of a state must share their batch, got {[list(x.shape) for x in leaves]}")
    return torch.cat([leaf.flatten(1) if leaf.dim() > 1 else leaf.unsqueeze(1) for leaf in leaves], dim=1)


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Inside, scaled dot product attention is plain arithmetic: the fused forms have no forward derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def _grad(y: Tensor, x: Tensor, u: Tensor, keep: bool = False) -> Tensor:
    if not y.requires_grad:  # y does not depend on x
        return torch.zeros_like(x)
    (g,) = torch.autograd.grad(y, x, u, retain_graph=keep, allow_unused=True)
    return torch.zeros_like(x) if g is None else g.detach()
