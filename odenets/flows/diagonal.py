"""Flows with a decay per channel."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from odenets.flows.flow import Frozen, SemilinearFlow
from odenets.flows.linear import Diagonal


class DiagonalFlow(SemilinearFlow):
    """`x' = -tau(t, x) x + b(t, x)` on x [.., d].

    Args:
        coefficients: (t, x) -> (tau [.., d] or [d], b [.., d]).
    """

    def __init__(self, coefficients: Callable[..., tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.coefficients = coefficients

    def freeze(self, t: Tensor | float, x: Tensor) -> Frozen:
        tau, b = self.coefficients(t, x)
        return Frozen(Diagonal(tau), b)


class HighwayFlow(SemilinearFlow):
    """`x' = tau(t, x) (H(t, x) - x)` on x [.., d]: relaxation towards H at the rates tau >= 0.

    A frozen step is the highway layer (1 - T) x + T H with gate T = beta(h tau) (arXiv:1505.00387, eq. 3).

    Args:
        rate: tau, (t, x) -> [.., d] or [d].
        target: H, (t, x) -> [.., d].
    """

    def __init__(self, rate: Callable[..., Tensor], target: Callable[..., Tensor]) -> None:
        super().__init__()
        self.rate = rate
        self.target = target

    def freeze(self, t: Tensor | float, x: Tensor) -> Frozen:
        tau = self.rate(t, x)
        return Frozen(Diagonal(tau), tau * self.target(t, x))
