"""The blocks of PolyNet: polynomials of the branch."""

from torch import Tensor

from odenets.blocks.base import Block, step_size
from odenets.blocks.branches import Branch, make_branches

VARIANTS = ("poly-2", "mpoly-2", "2-way")


class PolyNet(Block):
    """Second-order compositions of branches (Zhang, Li, Loy, Lin 2017, arXiv:1611.05725, section 4).

        poly-2    x + h F(x) + h F(h F(x))
        mpoly-2   x + h F(x) + h G(h F(x))
        2-way     x + h F(x) + h G(x)

    With h = 1 the paper's (I + F + F^2) x, (I + F + GF) x and (I + F + G) x. How h enters: poly-2 is the Neumann series
    of backward Euler, (I - hF)^{-1} = I + hF + (hF)^2 + ..., cut after its third term: for a linear F it differs from
    backward Euler by O(h^3). For a nonlinear F it is a scheme of order 1 for x' = F only if F(0) = 0. All evaluations
    are at the step's initial time. A norm would undo the factor h inside the second branch.

    Args:
        branch: F, a vector field, or a factory.
        branch2: G for mpoly-2 and 2-way; None builds it from branch's factory.
        variant: "poly-2", "mpoly-2" or "2-way".
        norm: None, or a factory of the norms of the branches' inputs.

    Raises:
        ValueError: unknown `variant`, or poly-2 with a branch2.
    """

    def __init__(
        self,
        branch: Branch,
        branch2: Branch | None = None,
        variant: str = "poly-2",
        norm: Branch | None = None,
    ):
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant= takes one of {VARIANTS}, got {variant!r}")
        if variant == "poly-2" and branch2 is not None:
            raise ValueError("poly-2 applies one branch twice, got branch2; take variant='mpoly-2' or leave it out")
        self.variant = variant
        fields = make_branches(1 if variant == "poly-2" else 2, (branch, branch2), norm)
        self.field = fields[0]
        self.field2 = None if variant == "poly-2" else fields[1]

    def forward(self, t: Tensor | float, x: Tensor, h: Tensor | float) -> Tensor:
        """x of any shape the branches take; t and h floats, [] or [B]. Returns x's shape."""
        step = step_size(h, x)
        first = step * self.field(t, x)
        second = self.field if self.field2 is None else self.field2
        return x + first + step * second(t, x if self.variant == "2-way" else first)

    def extra_repr(self) -> str:
        return f"variant={self.variant!r}"
