"""No linear part: the flow of a residual network."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from odenets.flows.linear.base import Forcing, LinearPart, StepSize
from odenets.flows.scheme import Scheme


class Zero(LinearPart):
    """A = 0 on x [.., d]: R = I and Q = I for every scheme, so that each frozen step is x + h b.

    Args:
        size: d, which only `matrix` needs.
    """

    core_dims: ClassVar[int] = 1

    def __init__(self, size: int | None = None) -> None:
        self.size = size

    def apply(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def matrix(self) -> Tensor:
        if self.size is None:
            raise ValueError("the zero part does not know its size: say Zero(size) to ask for its matrix.")
        return torch.zeros(self.size, self.size)

    def data(self) -> tuple[Tensor, bool]:
        return torch.zeros(1), True

    def field(self, x: Tensor, b: Forcing = None) -> Tensor:
        value = self.forcing(b)
        return value.to(x.dtype).expand_as(x) if isinstance(value, Tensor) else torch.zeros_like(x)

    def _propagate(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing) -> Tensor:
        return x + h * self.forcing(b)

    def _check(self, x: Tensor) -> None:
        pass
