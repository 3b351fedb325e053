"""Strang's splitting of attention and MLP."""

from torch import Tensor

from odenets.blocks.base import Block
from odenets.blocks.branches import Branch, make_branches
from odenets.blocks.runge_kutta import explicit_step, explicit_tableau


class Strang(Block):
    """One step of `x' = A(t, x) + M(t, x)`: M over h/2, A over h, M over h/2, each by one Runge-Kutta step.

    Strang 1968; as a transformer layer, Lu et al. 2019 (arXiv:1906.02762, section 3). Order 2 if the method has order
    2 or more, 1 with "euler". How h enters: as the splitting's step size; with method="euler" and h = 1 this is
    `Macaron` with one MLP used twice. Evaluations: one of A and two of M, times the method's stages.

    Args:
        attention: A, any vector field, or a factory.
        mlp: M; None builds it from attention's factory.
        method: name of an explicit Runge-Kutta method of `odenets.solvers`.
        norm: None, or a factory of the norms of the two inputs.

    Raises:
        ValueError: unknown method.
    """

    def __init__(
        self, attention: Branch, mlp: Branch | None = None, method: str = "midpoint", norm: Branch | None = None
    ):
        super().__init__()
        self.attention, self.mlp = make_branches(2, (attention, mlp), norm)
        self.tableau = explicit_tableau(method)

    def forward(self, t: Tensor | float, x: Tensor, h: Tensor | float) -> Tensor:
        """x of any shape the branches take; t and h floats, [] or [B]. Returns x's shape."""
        x = explicit_step(self.mlp, self.tableau, t, x, h / 2)
        x = explicit_step(self.attention, self.tableau, t, x, h)
        return explicit_step(self.mlp, self.tableau, t + h / 2, x, h / 2)

    def extra_repr(self) -> str:
        return f"method={self.tableau.name!r}"
