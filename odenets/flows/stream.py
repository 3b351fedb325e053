"""Flows on n streams that exchange their content."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from odenets.flows.flow import Frozen, SemilinearFlow
from odenets.flows.linear import Generator, Outer, StreamMatrix
from odenets.kernels.mhc import aggregate


class StreamFlow(SemilinearFlow):
    """`X' = M X + p F(t, q^T X)` on streams X [.., n, C].

    The frozen forward Euler step with h = 1 is (I + M) X + p F(q^T X): hyper-connections (arXiv:2409.19606)
    with any M, manifold-constrained hyper-connections (arXiv:2512.24880) with a generator, H_res = I + M,
    H_pre = q^T, H_post = p^T.

    Args:
        coefficients: (t, X) -> (M [.., n, n] or [n, n], q [.., n], p [.., n]): mixing, read and write weights.
        branch: F, (t, u [.., C]) -> [.., C].
        generator: whether M is a generator (rows and columns sum to 0, off-diagonal >= 0).
    """

    def __init__(
        self,
        coefficients: Callable[..., tuple[Tensor, Tensor, Tensor]],
        branch: Callable[..., Tensor],
        generator: bool = True,
    ) -> None:
        super().__init__()
        self.coefficients = coefficients
        self.branch = branch
        self.generator = generator

    def freeze(self, t: Tensor | float, x: Tensor) -> Frozen:
        m, q, p = self.coefficients(t, x)
        return self.frozen(m, p, self.branch(t, self.read(q, x)))

    def read(self, q: Tensor, x: Tensor) -> Tensor:
        """The branch's input q^T X [.., C]."""
        return aggregate(x, q)

    def frozen(self, m: Tensor, p: Tensor, f: Tensor) -> Frozen:
        """The linear part and forcing for mixing m, write weights p and the branch's output f [.., C]."""
        return Frozen(Generator(m) if self.generator else StreamMatrix(m), Outer(p, f))
