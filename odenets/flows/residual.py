"""The residual flow: no linear part."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from odenets.flows.flow import Frozen, SemilinearFlow
from odenets.flows.linear import Zero


class ResidualFlow(SemilinearFlow):
    """`x' = F(t, x)`. Every frozen step is the residual block x + h F(t, x) (arXiv:1603.05027; E 2017).

    Args:
        branch: F, a vector field (t, x) -> [x.shape].
    """

    def __init__(self, branch: Callable[..., Tensor]) -> None:
        super().__init__()
        self.branch = branch

    def freeze(self, t: Tensor | float, x: Tensor) -> Frozen:
        return Frozen(Zero(), self.branch(t, x))
