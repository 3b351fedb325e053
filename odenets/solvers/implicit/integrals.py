"""Implicit methods on states part of which are integrals: their derivative depends on the rest, nothing on them.

Such is the backward state of an adjoint: the gradients with respect to parameters are integrals along (y, a). Implicit
equations are solved for the rest alone, so that Jacobians have its size however many integrals there are; the
integrals' stages are then values of the field at the solved stages, which solves their equations exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..norms import rms_norm
from ..one_step import Accuracy, BoundMethod, Method
from ..step import Field, StepSize, Trial, add_scaled, weighted_sum
from .nonlinear import Work


class Core(Protocol):
    """The part of a state that its derivative depends on, and the field that it follows."""

    def __call__(self, t: Tensor, core: Tensor) -> Tensor: ...

    def take(self, y: Tensor) -> Tensor:
        """The core of a state [*state]."""

    def put(self, core: Tensor, y: Tensor) -> Tensor:
        """A copy of the state y with this core."""


class ImplicitWithIntegrals(BoundMethod):
    """An implicit Runge-Kutta method on a field that has a `core`.

    Args:
        method: an `ImplicitRungeKutta`.
        field: of the whole state.
        core: its core.
        accuracy: of a step; the equations of the core are solved in the root mean square norm.
    """

    def __init__(self, method: Method, field: Field, core: Core, accuracy: Accuracy) -> None:
        self.method, self.field, self.core = method, field, core
        self.inner = method.bind(core, Accuracy(accuracy.rtol, accuracy.atol, rms_norm))  # type: ignore[attr-defined]
        self.tableau = method.extended  # type: ignore[attr-defined]

    @property
    def work(self) -> Work:
        return self.inner.work  # type: ignore[no-any-return]

    @property
    def cause(self) -> str:  # type: ignore[override]
        return self.inner.cause  # type: ignore[no-any-return]

    def trial(
        self, times: Sequence[Tensor], h: StepSize, y: Tensor, derivative: Callable[[], Tensor], with_error: bool = True
    ) -> Trial:
        start = derivative()
        core = self.core.take(y)
        inner = self.inner.trial(times, h, core, lambda: self.core.take(start), with_error)
        if inner.failed:
            return Trial(y, torch.full_like(y, float("nan")), [start], True)
        stages = [start]
        for time, row, k in zip(times[1:], self.tableau.matrix[1:], inner.stages[1:]):
            at = add_scaled(core, h, weighted_sum(row, inner.stages))
            stages.append(self.core.put(k, self.field(time, self.core.put(at, y))))
        y1 = add_scaled(y, h, weighted_sum(self.tableau.b, stages))
        error = None
        if inner.error is not None:
            error = weighted_sum(self.tableau.b_error or (), stages)
            assert error is not None
            error = self.core.put(inner.error, error * h)
        return Trial(y1, error, stages)

    def accepted(self, where: Tensor | None = None) -> None:
        self.inner.accepted(where)

    def jumped(self) -> None:
        self.inner.jumped()
