"""The residual block."""

from torch import Tensor, nn

from odenets.blocks.base import Block
from odenets.fields.time import expand_time


class Residual(Block):
    """`x + h branch(t, norm(x))`: the forward Euler step of `x' = branch(t, norm(x))`.

    The frozen step of a semilinear flow with linear part A = 0, where every scheme gives this same map. With h = 1 and
    an autonomous branch it is the pre-activation residual block of He et al. 2016 (arXiv:1603.05027); with h = T/N it
    is the Euler step of E 2017 and of Haber, Ruthotto 2017 (arXiv:1705.03341).

    Args:
        branch: a vector field `f(t, x) -> [x.shape]`.
        norm: a module applied to the branch's input, such as `nn.RMSNorm`, or None.
    """

    def __init__(self, branch: nn.Module, norm: nn.Module | None = None):
        super().__init__()
        self.branch = branch
        self.norm = norm

    def field(self, t: Tensor | float, x: Tensor) -> Tensor:
        """The flow's vector field, which a solver can integrate with any other scheme. Returns dx/dt, x's shape."""
        return self.branch(t, x if self.norm is None else self.norm(x))

    def forward(self, t: Tensor | float, x: Tensor, h: Tensor | float) -> Tensor:
        """x of any shape the branch takes; t and h floats, [] or [B] with x [B, ...]. Returns x's shape."""
        step = expand_time(h, x).to(x.dtype) if isinstance(h, Tensor) else h
        return x + step * self.field(t, x)
