"""The coupling block of reversible residual networks."""

from torch import Tensor

from odenets.blocks.branches import Branch, make_branches
from odenets.blocks.coupling import CoupledBlock, Pair, couple, uncouple


class RevNet(CoupledBlock):
    """`q+ = q + h F(t, p)`, `p+ = p + h G(t, q+)` on a pair (q, p).

    With h = 1 the reversible block of Gomez, Ren, Urtasun, Grosse 2017 (arXiv:1707.04585, eq. 6; undone by eq. 7); with
    duplicated state the Reformer's form of it (arXiv:2001.04451, section 3). How h enters: the symplectic Euler step,
    order 1, of `q' = F(t, p)`, `p' = G(t, q)`; both branches see the step's initial time.

    Args:
        branch: F, a vector field, or a factory.
        branch2: G; None builds it from branch's factory.
        norm: None, or a factory of the norms of the branches' inputs.
        split, axis: see `CoupledBlock`.
    """

    def __init__(
        self,
        branch: Branch,
        branch2: Branch | None = None,
        norm: Branch | None = None,
        split: str = "duplicate",
        axis: int = -1,
    ):
        super().__init__(split, axis)
        self.field, self.field2 = make_branches(2, (branch, branch2), norm)

    def forward(self, t: Tensor | float, x: Pair, h: Tensor | float) -> Pair:
        return couple(self.field, self.field2, t, x, h)

    def inverse(self, t: Tensor | float, x: Pair, h: Tensor | float) -> Pair:
        return uncouple(self.field, self.field2, t, x, h)
