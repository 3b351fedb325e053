"""The Macaron block: attention between two half steps of MLPs."""

from torch import Tensor

from odenets.blocks.base import Block, step_size
from odenets.blocks.branches import Branch, make_branches


class Macaron(Block):
    """`x1 = x + h/2 M(t, x)`, `x2 = x1 + h A(t, x1)`, `x+ = x2 + h/2 M2(t + h/2, x2)`.

    With h = 1 the Macaron layer of Lu et al. 2019 (arXiv:1906.02762, section 4): two MLPs with weights of their own.
    How h enters: as the splitting's step size. It has the form of Strang's splitting, but its parts take Euler steps,
    so its order for `x' = A + M` is 1; `Strang` is the form of order 2.

    Args:
        attention: A, any vector field, or a factory.
        mlp, mlp2: M and M2; those left out are built from attention's factory.
        norm: None, or a factory of the norms of the three inputs.
    """

    def __init__(
        self, attention: Branch, mlp: Branch | None = None, mlp2: Branch | None = None, norm: Branch | None = None
    ):
        super().__init__()
        self.attention, self.mlp, self.mlp2 = make_branches(3, (attention, mlp, mlp2), norm)

    def forward(self, t: Tensor | float, x: Tensor, h: Tensor | float) -> Tensor:
        """x of any shape the branches take; t and h floats, [] or [B]. Returns x's shape."""
        step = step_size(h, x)
        x = x + step / 2 * self.mlp(t, x)
        x = x + step * self.attention(t, x)
        return x + step / 2 * self.mlp2(t + h / 2, x)
