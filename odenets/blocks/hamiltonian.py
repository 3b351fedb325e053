"""The Hamiltonian block: two coupled layers that are gradients of energies."""

import math

import torch
from torch import Tensor, nn

from odenets.blocks.coupling import CoupledBlock, Pair, couple, leapfrog, uncouple, unleapfrog

SCHEMES = ("verlet", "symplectic_euler")


class EnergyGradient(nn.Module):
    """The field `sign K^T tanh(K x + b)`: sign times the gradient of `energy(x) = sum log cosh(K x + b)`.

    Args:
        dim: size of x along `axis`.
        hidden: rows of K.
        sign: +1 or -1.
        axis: the axis K acts on.
    """

    def __init__(self, dim: int, hidden: int, sign: float = 1.0, axis: int = -1):
        super().__init__()
        self.linear = nn.Linear(dim, hidden)
        self.sign = sign
        self.axis = axis

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """x [.., dim along axis, ..]. Returns its shape; t is not used."""
        z = torch.tanh(self.linear(x.movedim(self.axis, -1)))
        return self.sign * (z @ self.linear.weight).movedim(-1, self.axis)

    def energy(self, x: Tensor) -> Tensor:
        """[..]: x's shape without `axis`."""
        z = self.linear(x.movedim(self.axis, -1)).abs()
        return (z + nn.functional.softplus(-2 * z) - math.log(2)).sum(-1)


class Hamiltonian(CoupledBlock):
    """`q' = K1^T tanh(K1 p + b1)`, `p' = -K2^T tanh(K2 q + b2)`, by a symplectic step.

    The two-layer Hamiltonian network of Chang et al. 2018 (arXiv:1709.03698, section 3), after Haber, Ruthotto 2017
    (arXiv:1705.03341, section 4). The flow keeps `energy`; a symplectic step with constant weights keeps it up to an
    oscillation of size h^2 (Verlet) or h for exponentially long times. How h enters: as the papers' step size;
    "symplectic_euler" is Chang's update at every h, "verlet" the same update between two half kicks of p, so that both
    parts of the state belong to the same time: order 2.

    The layers act at each position alone: for sequences mix positions with `Leapfrog` and attention branches.

    Args:
        dim: size of the input along `axis`.
        hidden: rows of K1 and K2; None takes the size of q.
        scheme: "verlet" or "symplectic_euler".
        split, axis: see `CoupledBlock`.

    Raises:
        ValueError: unknown `scheme` or `split`, or an odd dim to halve.
    """

    def __init__(
        self, dim: int, hidden: int | None = None, scheme: str = "verlet", split: str = "duplicate", axis: int = -1
    ):
        super().__init__(split, axis)
        if scheme not in SCHEMES:
            raise ValueError(f"scheme= takes one of {SCHEMES}, got {scheme!r}")
        if split == "halves" and dim % 2:
            raise ValueError(f"split='halves' expects an even dim, got {dim}; take split='duplicate'")
        size = dim // 2 if split == "halves" else dim
        self.scheme = scheme
        self.field = EnergyGradient(size, hidden or size, 1.0, axis)
        self.field2 = EnergyGradient(size, hidden or size, -1.0, axis)

    def forward(self, t: Tensor | float, x: Pair, h: Tensor | float) -> Pair:
        step = leapfrog if self.scheme == "verlet" else couple
        return step(self.field, self.field2, t, x, h)

    def inverse(self, t: Tensor | float, x: Pair, h: Tensor | float) -> Pair:
        step = unleapfrog if self.scheme == "verlet" else uncouple
        return step(self.field, self.field2, t, x, h)

    def energy(self, state: Pair) -> Tensor:
        """The Hamiltonian per position, [..]: the state's shape without `axis`."""
        return self.field.energy(state.p) + self.field2.energy(state.q)

    def extra_repr(self) -> str:
        return f"scheme={self.scheme!r}, {super().extra_repr()}"
