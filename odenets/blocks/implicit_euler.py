"""The implicit Euler skip connection."""

from typing import Any

import torch
from torch import Tensor, nn

from odenets.blocks.base import Block, step_size
from odenets.blocks.branches import Prenormed

SOLVERS = ("fixed_point", "gradient")


class ImplicitEuler(Block):
    """`x+ = x + h F(t + h, x+)`, solved by a fixed number of inner iterations from the explicit step x + h F(t + h, x).

    With h = 1 the IE-skip connection of Li, He, Lin 2020 (Implicit Euler Skip Connections: Enhancing Adversarial
    Robustness via Numerical Stability, ICML). How h enters: as backward Euler's step size. The inner iterations are

        fixed_point   z <- x + h F(t + h, z): contracts for h Lip(F) < 1; after k of them the error is O(h^{k+2})
        gradient      z <- z - rate (r - h J^T r), r = z - x - h F(t + h, z), J = dF/dz: descent on |r|^2 / 2, for any
                      Lip(F) if rate < 2 / |I - hJ|^2; it differentiates F twice (attention: fused=False)

    With a causal branch only "fixed_point" is causal: J^T runs from later positions to earlier ones, so that each
    descent step looks ahead; keep "gradient" for images and other states without an order.

    Differentiated by autograd through the iterations. Neither is a global solve: `defect` says what is left of r. With
    iterations = 0 and an autonomous F this is the residual block.

    Args:
        branch: a vector field `F(t, x) -> [x.shape]`.
        iterations: inner iterations after the explicit step.
        solver: "fixed_point" or "gradient".
        rate: step length of the descent.
        norm: a module applied to the branch's input, or None.

    Raises:
        ValueError: unknown `solver`, or iterations < 0.
    """

    def __init__(
        self,
        branch: nn.Module,
        iterations: int = 3,
        solver: str = "fixed_point",
        rate: float = 0.5,
        norm: nn.Module | None = None,
    ):
        super().__init__()
        if solver not in SOLVERS:
            raise ValueError(f"solver= takes one of {SOLVERS}, got {solver!r}")
        if iterations < 0:
            raise ValueError(f"ImplicitEuler expects iterations >= 0, got {iterations}")
        self.field = Prenormed(branch, norm)
        self.iterations = iterations
        self.solver = solver
        self.rate = rate

    def forward(self, t: Tensor | float, x: Tensor, h: Tensor | float) -> Tensor:
        """x of any shape the branch takes; t and h floats, [] or [B]. Returns x's shape."""
        step, end = step_size(h, x), t + h
        z = x + step * self.field(end, x)
        for _ in range(self.iterations):
            if self.solver == "fixed_point":
                z = x + step * self.field(end, z)
            else:
                z = z - self.rate * self._gradient(end, x, z, step)
        return z

    def _gradient(self, end: Tensor | float, x: Tensor, z: Tensor, step: Tensor | float) -> Tensor:
        """(I - h J)^T r, the gradient of |r|^2 / 2 in z."""
        value_and_pullback: Any = torch.func.vjp(lambda y: self.field(end, y), z)
        f, pullback = value_and_pullback
        r = z - x - step * f
        return r - pullback(step * r)[0]

    def defect(self, t: Tensor | float, x: Tensor, x1: Tensor, h: Tensor | float) -> Tensor:
        """r = x1 - x - h F(t + h, x1), [x.shape]: zero for an exact step x -> x1."""
        return x1 - x - step_size(h, x) * self.field(t + h, x1)

    def extra_repr(self) -> str:
        return f"solver={self.solver!r}, iterations={self.iterations}"
