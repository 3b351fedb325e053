"""The momentum residual block."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from odenets.blocks.base import ReversibleBlock, step_size
from odenets.blocks.branches import Prenormed


class MomentumState(NamedTuple):
    """Position and velocity, both with the activation's shape."""

    x: Tensor
    v: Tensor


class Momentum(ReversibleBlock):
    """`v+ = g v + (1 - g) F(t, x)`, `x+ = x + h v+` with g = gamma^h; state (x, v), v = 0 at the start.

    With h = 1 the momentum residual network of Sander, Ablin, Blondel, Peyre 2021 (arXiv:2102.07870, section 3). How h
    enters: the velocity relaxes to F at the rate -log(gamma) over a time h, exactly for a constant F, and moves x for a
    time h; a scheme of order 1 for `x' = v, v' = -log(gamma) (F(t, x) - v)`. gamma = 0 is the residual block at every
    h. A step is undone by `inverse`, which multiplies rounding errors in v by 1/g: in float32 that is all of v's digits
    after about 16 / log(1/g) steps.

    Args:
        branch: a vector field `F(t, x) -> [x.shape]`.
        gamma: momentum, 0 <= gamma < 1.
        norm: a module applied to the branch's input, or None.

    Raises:
        ValueError: gamma outside [0, 1), or (in `inverse`) gamma = 0.
    """

    branches = ("field",)

    def __init__(self, branch: nn.Module, gamma: float = 0.9, norm: nn.Module | None = None):
        super().__init__()
        if not 0 <= gamma < 1:
            raise ValueError(f"Momentum expects 0 <= gamma < 1, got {gamma}; gamma = 1 would never hear the branch")
        self.field = Prenormed(branch, norm)
        self.gamma = gamma

    def forward(self, t: Tensor | float, x: MomentumState, h: Tensor | float) -> MomentumState:
        position, velocity = x
        step = step_size(h, position)
        g = self.gamma**step
        velocity = g * velocity + (1 - g) * self.field(t, position)
        return MomentumState(position + step * velocity, velocity)

    def inverse(self, t: Tensor | float, x: MomentumState, h: Tensor | float) -> MomentumState:
        if self.gamma == 0:
            raise ValueError(
                "Momentum with gamma = 0 is the residual block, which has no closed inverse; take gamma > 0"
            )
        position, velocity = x
        step = step_size(h, position)
        g = self.gamma**step
        position = position - step * velocity
        return MomentumState(position, (velocity - (1 - g) * self.field(t, position)) / g)

    def lift(self, x: Tensor) -> MomentumState:
        return MomentumState(x, torch.zeros_like(x))

    def readout(self, state: MomentumState) -> Tensor:
        return state.x

    def extra_repr(self) -> str:
        return f"gamma={self.gamma:g}"
