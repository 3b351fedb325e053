"""The leapfrog block on two coupled branches."""

from torch import Tensor

from odenets.blocks.branches import Branch, make_branches
from odenets.blocks.coupling import CoupledBlock, Pair, leapfrog, unleapfrog


class Leapfrog(CoupledBlock):
    """One Stormer-Verlet step of `q' = F(t, p)`, `p' = G(t, q)`.

        p_half = p + h/2 G(t, q);  q+ = q + h F(t + h/2, p_half);  p+ = p_half + h/2 G(t + h, q+)

    Order 2, time-symmetric, undone by the step with -h. After Haber, Ruthotto 2017 (arXiv:1705.03341, section 4) and
    Chang et al. 2018 (arXiv:1709.03698), with any branches in place of their layers; `Hamiltonian` is the form with
    theirs. With F = identity and a state at rest it is Chang's leapfrog network `x_{n+1} = 2 x_n - x_{n-1} + h^2 G`.

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
        return leapfrog(self.field, self.field2, t, x, h)

    def inverse(self, t: Tensor | float, x: Pair, h: Tensor | float) -> Pair:
        return unleapfrog(self.field, self.field2, t, x, h)
