"""The delta flow: write v at k, and forget what stood there."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from odenets.flows.flow import Frozen, SemilinearFlow
from odenets.flows.linear import Along, RankOne


class DeltaFlow(SemilinearFlow):
    """`X' = rate k (v^T - k^T X)` on X [.., d, d_v].

    A frozen step is Deep Delta Learning, X + beta k (v^T - k^T X) (arXiv:2601.00417), with beta = the
    scheme's gate at h rate.

    Args:
        coefficients: (t, X) -> (k [.., d], v [.., d_v]) or (k, v, rate [..]). k has norm 1 up to a guard: see
            `guarded_unit`.
        coefficient: "paper" or "exact", see `RankOne`.
    """

    def __init__(self, coefficients: Callable[..., tuple[Tensor, ...]], coefficient: str = "paper") -> None:
        super().__init__()
        self.coefficients = coefficients
        self.coefficient = coefficient

    def freeze(self, t: Tensor | float, x: Tensor) -> Frozen:
        k, v, *rate = self.coefficients(t, x)
        return Frozen(RankOne(k, self.coefficient, *rate), Along(v))
