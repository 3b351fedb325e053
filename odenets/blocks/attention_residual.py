"""Attention over depth in place of the residual sum."""

import torch
from torch import Tensor, nn

from odenets.blocks.base import Block, step_size
from odenets.blocks.branches import Prenormed
from odenets.blocks.history import History, mix, rms_normed


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

    def forward(self, t: Tensor | float, x: History, h: Tensor | float) -> History:
        (now,) = x.inputs
        earlier = (*x.earlier, step_size(h, now) * self.field(t, now))
        logits = [self._score(v) for v in earlier]
        weights = torch.stack(logits).softmax(0).to(now.dtype).unsqueeze(self.axis if self.axis < 0 else self.axis + 1)
        return History((mix(list(weights), earlier),), earlier)

    def _score(self, v: Tensor) -> Tensor:
        # In float32 or wider: a softmax over a hundred terms needs the digits.
        v = v.to(torch.promote_types(v.dtype, torch.float32))
        return rms_normed(v, self.axis, self.eps).movedim(self.axis, -1) @ self.query.to(v.dtype)

    def lift(self, x: Tensor) -> History:
        return History((x,), (x,))

    def readout(self, state: History) -> Tensor:
        return state.inputs[-1]
