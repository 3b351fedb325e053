"""States of any shape as one tensor: tensors stay as they are, trees of tensors become one vector and back.

A tree is any nesting of tuples, lists and dicts. Leaves may differ in shape and dtype; the vector takes the promoted
dtype and every leaf gets its own dtype back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .errors import InputError


@dataclass(frozen=True)
class StateLayout:
    """How a state is laid out in one tensor.

    Args:
        spec: the tree's structure; None for a plain tensor, which is not touched at all.
        shapes: shapes of the leaves, without the leading `batch_dims` dimensions.
        dtypes: dtypes of the leaves.
        batch_dims: leading dimensions shared by all leaves and kept apart (1 for per-sample steps, else 0).
    """

    spec: pytree.TreeSpec | None
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    batch_dims: int = 0

    @classmethod
    def of(cls, state: Any, batch_dims: int = 0) -> StateLayout:
        """Layout of `state`. Raises InputError for a leaf that is no floating-point or complex tensor."""
        leaves, spec = ([state], None) if isinstance(state, Tensor) else pytree.tree_flatten(state)
        if not leaves:
            raise InputError("y0 must hold at least one tensor, got an empty tree.")
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                raise InputError(f"y0 must be a tensor or a tree of tensors, got a leaf of type {type(leaf).__name__}.")
            if not (leaf.is_floating_point() or leaf.is_complex()):
                raise InputError(f"y0 must be floating point or complex, got {leaf.dtype}; convert it with .float().")
            if leaf.dim() < batch_dims or leaf.shape[:batch_dims] != leaves[0].shape[:batch_dims]:
                raise InputError(
                    "per_sample steps need the same leading batch dimension on every tensor of y0, got shapes "
                    + ", ".join(str(tuple(x.shape)) for x in leaves)
                )
        return cls(
            spec,
            tuple(leaf.shape[batch_dims:] for leaf in leaves),
            tuple(leaf.dtype for leaf in leaves),
            batch_dims,
        )

    @property
    def sizes(self) -> list[int]:
        return [shape.numel() for shape in self.shapes]

    def flatten(self, state: Any) -> Tensor:
        """The state as one tensor: itself, or [*batch, sum of sizes] for a tree."""
        if self.spec is None:
            return state
        leaves = self.leaves(state, "the state")
        return torch.cat([leaf.reshape(*leaf.shape[: self.batch_dims], -1) for leaf in leaves], dim=-1)

    def leaves(self, state: Any, what: str) -> list[Tensor]:
        """The tensors of a tree laid out like this one, dicts by key; InputError names `what` if it is not."""
        assert self.spec is not None
        try:
            return self.spec.flatten_up_to(state)
        except (ValueError, KeyError):
            leaves = pytree.tree_leaves(state)
            if isinstance(state, (tuple, list)) and len(leaves) == len(self.shapes):
                return leaves  # a list where y0 was a tuple, or the other way round
            raise InputError(
                f"{what} must have the structure of y0, {self.spec}, got {type(state).__name__}."
            ) from None

    def unflatten(self, vector: Tensor, lead: tuple[int, ...] = ()) -> Any:
        """The state behind `vector` [*lead, *batch, size], each leaf with the leading dimensions `lead`."""
        if self.spec is None:
            return vector
        lead = (*lead, *vector.shape[len(lead) : len(lead) + self.batch_dims])
        leaves, start = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes):
            # one slice, then one view: people walk this graph to reach the solve's own node
            leaf = vector[..., start : start + shape.numel()].view((*lead, *shape))
            leaves.append(_to_dtype(leaf, dtype))
            start += shape.numel()
        return pytree.tree_unflatten(leaves, self.spec)


def _to_dtype(leaf: Tensor, dtype: torch.dtype) -> Tensor:
    if leaf.is_complex() and not dtype.is_complex:
        leaf = leaf.real
    return leaf if leaf.dtype == dtype else leaf.to(dtype)
