"""Attention over depth in place of the residual sum."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from odenets.blocks.base import Block, step_size
from odenets.blocks.branches import Prenormed
from odenets.blocks.history import mix
from odenets.kernels.backend import fused
from odenets.kernels.depth_mix import attend


class Attended(NamedTuple):
    """The state of a stack that attends over its depth.

    Attributes:
        x: the mixture the next branch reads, and the output.
        values: v_0 .. v_n, each with x's shape.
        scales: 1 / rms(v_i), each with x's shape without the feature axis.
    """

    x: Tensor
    values: tuple[Tensor, ...]
    scales: tuple[Tensor, ...]


class AttentionResidual(Block):
    """`v_{n+1} = h F(t, x_n)`, `x_{n+1} = sum_i alpha_i v_i`, alpha = softmax_i(w^T RMSNorm(v_i)) over i = 0 .. n+1.

    v_0 is the input, w a learned query of each block, alpha one number per position. Attention Residuals (Kimi Team
    2026, arXiv:2603.15031, section 3, the full form; w = 0 at the start, as there: the mean of all v_i). The mean is
    the residual stack's state divided by the number of terms, so that with branches that normalise their input the
    stack starts as the residual stack, up to the scale of the output. How h enters: it multiplies the branch's output,
    and only v_0 does not carry it; RMSNorm makes alpha blind to it. h = 1 is the paper's. Block n holds the query that
    mixes the next block's input (the paper counts it as that block's), the last block the query of the output.

    Args:
        branch: a vector field `F(t, x) -> [x.shape]`.
        dim: size of x along `axis`.
        norm: a module applied to the branch's input, or None.
        eps: of the keys' RMS normalisation, whose weight the query absorbs.
        axis: the axis of the features.
    """

    def __init__(self, branch: nn.Module, dim: int, norm: nn.Module | None = None, eps: float = 1e-6, axis: int = -1):
        super().__init__()
        self.field = Prenormed(branch, norm)
        self.query = nn.Parameter(torch.zeros(dim))
        self.eps = eps
        self.axis = axis

    def forward(self, t: Tensor | float, x: Attended, h: Tensor | float) -> Attended:
        new = step_size(h, x.x) * self.field(t, x.x)
        values, scales = (*x.values, new), (*x.scales, self._scale(new))
        if fused(new) and self.axis in (-1, new.dim() - 1):
            return Attended(attend(self.query, torch.stack(scales, -1), values), values, scales)
        # w . RMSNorm(v) = (w . v) / rms(v), in float32 or wider: a softmax over a hundred terms needs the digits.
        dtype = scales[0].dtype
        query = self.query.to(dtype)
        dots = torch.stack([v.to(dtype).movedim(self.axis, -1) @ query for v in values])  # [n, ..]
        weights = (dots * torch.stack(scales)).softmax(0).to(new.dtype)
        weights = weights.unsqueeze(self.axis if self.axis < 0 else self.axis + 1)
        return Attended(mix(weights.unbind(), values), values, scales)

    def _scale(self, v: Tensor) -> Tensor:
        wide = v.to(torch.promote_types(v.dtype, torch.float32))
        return (wide.square().mean(self.axis) + self.eps).rsqrt()

    def lift(self, x: Tensor) -> Attended:
        return Attended(x, (x,), (self._scale(x),))

    def readout(self, state: Attended) -> Tensor:
        return state.x
