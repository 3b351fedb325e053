"""Gradients by forward sensitivities: dy/d(y0, args) is carried beside y, and backward contracts it.

The tangent of every step is that of the discrete step at its size, so the gradient is what autograd through the same
steps gives, to rounding; memory does not grow with the number of steps, work grows with the number of parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..once import differentiable_once
from .trace import Sources

MOST_DIRECTIONS = 32


@dataclass
class Directions:
    """What a solve is differentiated with respect to.

    Attributes:
        tensors: y [batch, *state] first, then the parameters' tensors.
        kinds: for each, "y", "p" (one entry per trajectory) or "s" (shared).
        seeds: the names of all their numbers, as `Program.seeds`.
    """

    tensors: list[Tensor]
    kinds: list[str]
    seeds: tuple[str, ...]

    @classmethod
    def of(cls, y: Tensor, sources: Sources) -> Directions:
        """Those of y and the field's parameters that require a gradient; none where gradients are off."""
        found, kinds, seeds = [], [], []
        groups = (("y", [y]), ("p", sources.each), ("s", sources.common))
        for kind, tensors in groups if torch.is_grad_enabled() else ():
            offset = 0
            for x in tensors:
                count = x.numel() if kind == "s" else x.shape[1:].numel()
                if x.requires_grad:
                    found.append(x)
                    kinds.append(kind)
                    seeds += [f"{kind}{offset + i}" for i in range(count)]
                offset += count
        if len(seeds) > MOST_DIRECTIONS:
            raise InputError(
                f"ensemble=True differentiates with respect to at most {MOST_DIRECTIONS} numbers per trajectory, got "
                f"{len(seeds)}: use per_sample=True, whose gradients go backwards."
            )
        return cls(found, kinds, tuple(seeds))


class Sensitivities(torch.autograd.Function):
    """The states that a solve found, differentiable by their sensitivities."""

    @staticmethod
    def forward(ctx, solve: Callable[[], tuple[Tensor, Tensor]], kinds: list[str], *tensors: Tensor) -> Tensor:
        ys, zs = solve()  # [T, batch, D], [T, batch, D, S]
        # times that a trajectory did not reach are NaN and depend on nothing
        ctx.save_for_backward(zs.masked_fill(ys.isnan()[..., None], 0.0))
        ctx.kinds, ctx.like = kinds, [(x.shape, x.dtype, x.device) for x in tensors]
        return ys

    @staticmethod
    @differentiable_once
    def backward(ctx, gradient: Tensor):
        (zs,) = ctx.saved_tensors
        total = torch.einsum("tbd,tbds->bs", gradient, zs)
        sizes = [shape.numel() if kind == "s" else shape[1:].numel() for kind, (shape, *_) in zip(ctx.kinds, ctx.like)]
        found = []
        for kind, part, (shape, dtype, device) in zip(ctx.kinds, total.split(sizes, dim=1), ctx.like):
            found.append((part.sum(0) if kind == "s" else part).reshape(shape).to(device, dtype))
        return None, None, *found
