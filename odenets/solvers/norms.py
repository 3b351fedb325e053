"""Norms of the scaled error: what one number decides whether a step is accepted.

Root mean square over everything; for a tree of tensors the largest of its leaves' (torchdiffeq's conventions).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .state import StateLayout

Norm = Callable[[Any], Any]


def rms_norm(x: Tensor) -> Tensor:
    """sqrt(mean |x|^2) over all elements; 0 for an empty tensor. x of any shape, real or complex."""
    return torch.linalg.vector_norm(x) / max(x.numel(), 1) ** 0.5


def rms_norm_per_sample(x: Tensor) -> Tensor:
    """sqrt(mean |x|^2) over all but the first dimension: x [B, ...] -> [B]."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1) / max(x.shape[1:].numel(), 1) ** 0.5


def largest_rms_norm(leaves: tuple[Tensor, ...]) -> Tensor | float:
    """The largest root mean square among `leaves`; 0 for none."""
    if not leaves:
        return 0.0
    return torch.stack([rms_norm(leaf).reshape(()) for leaf in leaves]).max()


def state_norm(layout: StateLayout, norm: Norm | None) -> Norm:
    """The norm of a flattened state, from the user's norm of the unflattened one (None: the default)."""
    if layout.spec is None:
        return rms_norm if norm is None else norm
    if norm is not None:
        return lambda vector: norm(layout.unflatten(vector))
    sizes = layout.sizes

    def norm_of_vector(vector: Tensor) -> Tensor | float:
        return largest_rms_norm(tuple(vector.split(sizes)))

    return norm_of_vector
