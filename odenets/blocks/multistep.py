"""The two-step block of LM-ResNet."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from odenets.blocks.base import Block, step_size
from odenets.blocks.branches import Prenormed


class TwoStates(NamedTuple):
    """The activation and the one a step before, of the same shape."""

    x: Tensor
    previous: Tensor


class LinearMultistep(Block):
    """`x_{n+1} = (1 - k) x_n + k x_{n-1} + h F(t_n, x_n)` with a learned scalar k; state (x_n, x_{n-1}).

    With h = 1 LM-ResNet (Lu, Zhong, Li, Dong 2018, arXiv:1710.10121, section 2.2). How h enters: a two-step scheme of
    order 1 for `(1 + k) x' = F(t, x)`, stable for -1 < k <= 1; k = 0 is the residual block. The input stands for its
    own predecessor, x_{-1} = x_0, so that the first step is the residual one for every k (and the first block's k
    has the gradient zero unless the block is tied).

    Args:
        branch: a vector field `F(t, x) -> [x.shape]`.
        k: initial value; None draws it from U(-0.1, 0), as the paper does.
        norm: a module applied to the branch's input, or None.
    """

    def __init__(self, branch: nn.Module, k: float | None = None, norm: nn.Module | None = None):
        super().__init__()
        self.field = Prenormed(branch, norm)
        self.k = nn.Parameter(-0.1 * torch.rand(()) if k is None else torch.tensor(float(k)))

    def forward(self, t: Tensor | float, x: TwoStates, h: Tensor | float) -> TwoStates:
        now, previous = x
        k = self.k.to(now.dtype)
        return TwoStates(now + k * (previous - now) + step_size(h, now) * self.field(t, now), now)

    def lift(self, x: Tensor) -> TwoStates:
        return TwoStates(x, x)

    def readout(self, state: TwoStates) -> Tensor:
        return state.x
