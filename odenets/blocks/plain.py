"""A layer without a skip connection: the control of every comparison."""

from torch import Tensor, nn

from odenets.blocks.base import Block


class Plain(Block):
    """`branch(t, norm(x))`: no skip connection, hence no flow. The step size does not enter.

    The control against which He et al. 2016 (arXiv:1512.03385, section 4.1, "plain networks") compare residual ones.

    Args:
        branch: `f(t, x) -> [x.shape]`.
        norm: a module applied to the branch's input, such as `nn.RMSNorm`, or None.
    """

    def __init__(self, branch: nn.Module, norm: nn.Module | None = None):
        super().__init__()
        self.branch = branch
        self.norm = norm

    def forward(self, t: Tensor | float, x: Tensor, h: Tensor | float) -> Tensor:
        """x of any shape the branch takes; t a float, [] or [B]; h is ignored. Returns x's shape."""
        return self.branch(t, x if self.norm is None else self.norm(x))
