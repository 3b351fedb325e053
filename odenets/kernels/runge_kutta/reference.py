"""The operators of a Runge-Kutta step in plain torch: the definition."""

from collections.abc import Sequence

import torch
from torch import Tensor


def stage_sum(y: Tensor, h: Tensor, weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """y + h sum_j w_j k_j: y [B, D], h [B] or [1]."""
    total = _weighted(weights, stages)
    return (y + h.to(total.dtype)[:, None] * total).to(y.dtype)


def finish(
    y: Tensor,
    h: Tensor,
    b: Sequence[float],
    b_error: Sequence[float],
    stages: Sequence[Tensor],
    rtol: float,
    atol: float,
) -> tuple[Tensor, Tensor]:
    """The new state [B, D] and, per row, the mean square of h sum e_j k_j / (atol + rtol max(|y|, |y+|)) [B]."""
    new = stage_sum(y, h, b, stages)
    error = h.to(torch.promote_types(h.dtype, torch.float32))[:, None] * _weighted(b_error, stages)
    scale = atol + rtol * torch.maximum(y.to(error.dtype).abs(), new.to(error.dtype).abs())
    return new, (error / scale).square().mean(-1)


def _weighted(weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    wide = torch.promote_types(stages[0].dtype, torch.float32)
    return sum((w * k.to(wide) for w, k in zip(weights, stages) if w != 0), torch.zeros_like(stages[0], dtype=wide))
