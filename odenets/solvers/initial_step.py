"""A first step size from the field near the start (HNW section II.4, "Starting step size")."""

from __future__ import annotations

import torch
from torch import Tensor

from .norms import Norm
from .step import Field, add_scaled, over_state


@torch.no_grad()
def initial_step(
    field: Field,
    t0: Tensor,
    y0: Tensor,
    f0: Tensor,
    direction: float,
    order: int,
    rtol: float | Tensor,
    atol: float | Tensor,
    norm: Norm,
    limit: Tensor | None = None,
) -> Tensor:
    """A size h > 0 such that an explicit Euler step, and a step of the given order, have errors near the tolerance.

    Pure: no host synchronisation of its own.

    Args:
        field: f(t, y).
        t0: start, [] or [batch].
        y0, f0: state and derivative there [*state] or [batch, ...].
        direction: +1.0 or -1.0.
        order: order of the error estimate.
        rtol, atol: tolerances.
        norm: of scaled states, -> number, [] or [batch] like t0.
        limit: the end, beyond which the field is not evaluated.

    Returns:
        the size, shaped and typed like t0.
    """

    def size_of(x: Tensor) -> Tensor:
        return torch.as_tensor(norm(x / scale), device=t0.device).abs().to(t0.dtype).expand(t0.shape)

    scale = atol + y0.abs() * rtol
    d0, d1 = size_of(y0), size_of(f0)
    tame = (d0 >= 1e-5) & (d1 >= 1e-5) & (d1 < float("inf"))  # false for NaN
    h0 = torch.where(tame, 0.01 * d0 / d1, torch.full_like(d0, 1e-6))
    if limit is not None:
        h0 = torch.minimum(h0, (limit - t0).abs())
    time_dtype = torch.empty((), dtype=y0.dtype).abs().dtype
    h = direction * h0
    f1 = field((t0 + h).to(time_dtype), add_scaled(y0, over_state(h, y0), f0))
    d2 = size_of(f1 - f0) / h0
    largest = torch.maximum(d1, d2)
    flat = ~((d1 > 1e-15) | (d2 > 1e-15))
    h1 = torch.where(flat, (h0 * 1e-3).clamp(min=1e-6), (0.01 / largest) ** (1.0 / (order + 1)))
    h1 = torch.where((largest < float("inf")) & (h1 > 0), h1, h0)
    return torch.minimum(100 * h0, h1)
