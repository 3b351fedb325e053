"""The rotational flow: a skew-symmetric linear part."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from odenets.flows.flow import Frozen, SemilinearFlow
from odenets.flows.linear import Forcing, Skew


class SkewFlow(SemilinearFlow):
    """`x' = (S - S^T - gamma I) x + b` on x [.., d], with S and b functions of (t, x).

    Not the antisymmetric network of arXiv:1902.09689, whose skew matrix stands inside the nonlinearity: that one is a
    field of its own, for full steps.

    Args:
        coefficients: (t, x) -> (S [.., d, d] or [d, d], b [.., d] or None).
        gamma: damping.
    """

    def __init__(self, coefficients: Callable[..., tuple[Tensor, Forcing]], gamma: float = 0.0) -> None:
        super().__init__()
        self.coefficients = coefficients
        self.gamma = gamma

    def freeze(self, t: Tensor | float, x: Tensor) -> Frozen:
        s, b = self.coefficients(t, x)
        return Frozen(Skew(s, self.gamma), b)
