"""What a scheme is to a frozen linear part: a one-step map with a stability function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import overload

from torch import Tensor

from odenets.solvers.structured.phi import at_least_single


class Scheme(ABC):
    """A one-step map of `x' = A x + b` with constant A and b: `x+ = R(hA) x + h Q(hA) b`.

    R is the stability function (Hairer, Wanner, "Solving ODEs II", section IV.3) and R(z) = 1 + z Q(z), Q(0) = 1. Q is
    computed in its own right, never as (R - 1) / z: the linear parts of delta and stream flows are singular.

    Everything is differentiable, in any order, and works elementwise on float32, float64 and complex tensors; lower
    precision is raised to float32, which is also what is returned. Python numbers give Python numbers.

    Attributes:
        name: as `resolve_scheme` knows it.
    """

    name: str

    # Elementwise

    @overload
    def R(self, z: Tensor) -> Tensor: ...
    @overload
    def R(self, z: float) -> float: ...
    @abstractmethod
    def R(self, z: Tensor | float) -> Tensor | float:
        """The stability function R(z) [*z.shape]."""

    @overload
    def Q(self, z: Tensor) -> Tensor: ...
    @overload
    def Q(self, z: float) -> float: ...
    @abstractmethod
    def Q(self, z: Tensor | float) -> Tensor | float:
        """The forcing function Q(z) = (R(z) - 1) / z [*z.shape], phi_1 for the exponential scheme."""

    @overload
    def Q2(self, z: Tensor) -> Tensor: ...
    @overload
    def Q2(self, z: float) -> float: ...
    @abstractmethod
    def Q2(self, z: Tensor | float) -> Tensor | float:
        """(Q(z) - 1) / z [*z.shape], phi_2 for the exponential scheme: what h Q(hA) b needs when A has rank one."""

    @overload
    def gate(self, h: Tensor) -> Tensor: ...
    @overload
    def gate(self, h: float) -> float: ...
    @abstractmethod
    def gate(self, h: Tensor | float) -> Tensor | float:
        """beta(h) = 1 - R(-h) = h Q(-h) [*h.shape]: the part of a unit-rate mode that a step of size h replaces.

        The gate of Deep Delta Learning (arXiv:2601.00417) and of a highway layer that this scheme stands for.
        """

    # Of matrices

    @abstractmethod
    def matrices(self, m: Tensor) -> tuple[Tensor, Tensor]:
        """R(m) and Q(m) for square matrices m [.., n, n], both at the cost of little more than one."""

    def R_matrix(self, m: Tensor) -> Tensor:
        """R(m) for square matrices m [.., n, n]."""
        return self.matrices(m)[0]

    def Q_matrix(self, m: Tensor) -> Tensor:
        """Q(m) for square matrices m [.., n, n]."""
        return self.matrices(m)[1]

    # What is known of it

    @property
    @abstractmethod
    def order(self) -> float:
        """The largest p with R(z) = e^z + O(z^(p+1)); infinite for the exponential scheme."""

    @property
    @abstractmethod
    def is_explicit(self) -> bool:
        """Whether R is a polynomial: a step needs products with A only."""

    @property
    @abstractmethod
    def real_limit(self) -> float:
        """The largest x such that |R| <= 1 on [-x, 0]: decay is stable for h |lambda| <= x."""

    @property
    @abstractmethod
    def imaginary_limit(self) -> float:
        """The largest y such that |R| <= 1 on [0, iy]: rotation is stable for h |omega| <= y."""

    @property
    @abstractmethod
    def reflects_above(self) -> float:
        """The h above which gate(h) > 1, that is R(-h) < 0: a step overshoots the target; infinite if it never does.

        The first such h: a gate may fall below 1 again further out.
        """

    @property
    @abstractmethod
    def is_a_stable(self) -> bool:
        """Whether |R(z)| <= 1 for all z with Re z <= 0."""

    @property
    @abstractmethod
    def is_l_stable(self) -> bool:
        """Whether it is A-stable and R vanishes at infinity."""


def check_square(m: Tensor) -> Tensor:
    """m [.., n, n] in at least single precision. Raises ValueError for any other shape."""
    if m.dim() < 2 or m.shape[-1] != m.shape[-2]:
        raise ValueError(f"expected square matrices [.., n, n], got {list(m.shape)}; pass h * A, not A x.")
    return at_least_single(m)
