"""What a semilinear flow is: a vector field that can be frozen into a linear part and a forcing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from odenets.flows.linear import Forcing, LinearPart


class Frozen(NamedTuple):
    """A flow's linear part and forcing at one point (t, x).

    Attributes:
        linear: A, held fixed.
        forcing: b: a tensor, `Outer`, `Along` or None.
    """

    linear: LinearPart
    forcing: Forcing


class SemilinearFlow(nn.Module, ABC):
    """The vector field `f(t, x) = A(t, x) x + b(t, x)`.

    A module, so that it is a solver's field like any other. A subclass says how to freeze it; all its networks run
    there, once.
    """

    @abstractmethod
    def freeze(self, t: Tensor | float, x: Tensor) -> Frozen:
        """A and b at time t (a float, [] or one per sample [B]) and state x [B, ...]."""

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """dx/dt in x's shape and dtype."""
        linear, forcing = self.freeze(t, x)
        return linear.field(x, forcing)
