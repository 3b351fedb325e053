"""Phantom gradients: a few steps of an iteration in place of the linear system of the implicit function theorem.

At a solution of x = F(x, p) the damped iteration x <- x + w (F(x, p) - x) stands still; unrolled k times from there and
differentiated, it gives, with M = I - dF/dx,

    dx/dp = w sum_{i<k} (I - w M)^i dF/dp   instead of   M^{-1} dF/dp.

That is k - 1 vector-Jacobian products and no matrix. What is left out is (I - w M)^k of the gradient: none of it as k
grows if the iteration converges there, anything if it does not (stiff steps, h |J| > 1 with w = 1). Geng, Zhang, Bai,
Wang, Lin, "On training implicit models" (NeurIPS 2021, arXiv:2111.05177), section 3; k = 1 is the Jacobian-free
gradient of Fung et al. (AAAI 2022, arXiv:2103.12803).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True)
class Phantom:
    """Cheap and biased.

    Args:
        steps: k.
        damping: w, in (0, 1].

    Raises:
        InputError: for values out of range.
    """

    steps: int = 5
    damping: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.damping <= 1:
            raise InputError(f"Phantom needs steps >= 1 and damping in (0, 1], got {self.steps} and {self.damping}.")

    def solve(self, apply: Callable[[Tensor], Tensor], rhs: Tensor) -> Tensor:
        """About A^{-1} rhs by k steps x <- x + w (rhs - A x) from zero, for A = `apply`."""
        x = rhs * self.damping
        for _ in range(self.steps - 1):
            x = x + self.damping * (rhs - apply(x))
        return x
