"""The solver of a backward solve, made from that of the forward one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..field import FlatField
from ..integrator import Integrator
from ..norms import Norm
from ..solver import Adams, Adaptive, FixedStep, Solver
from ..state import StateLayout
from .base import smallest


def start_backward(
    solver: Solver,
    span: float,
    function: Callable[[Tensor, Tensor], Tensor],
    layout: StateLayout,
    t: Tensor,
    state: Tensor,
    norm: Norm,
    direction: float,
) -> Integrator:
    """An integrator like the forward one for the adjoint's augmented state.

    A number of steps becomes their size over the whole `span`, tolerances per leaf become one for each part.
    """
    backward: Any = solver
    if isinstance(solver, (FixedStep, Adams)) and solver.steps is not None:
        backward = dataclasses.replace(solver, steps=None, step_size=abs(span) / solver.steps)
    if isinstance(solver, Adaptive):
        rtol, atol = smallest(solver.rtol), smallest(solver.atol)
        backward = dataclasses.replace(solver, norm=norm, rtol=rtol, atol=atol)
    return backward.start(_Flat(function, layout), t, state, direction)


class _Flat(FlatField):
    """A field whose state already is one vector, with the layout of the tree it stands for."""

    @property
    def core(self) -> Any:
        return getattr(self.func, "core", None)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.nfe += 1
        return self.func(t, y)

    def evaluate(self, t: Tensor, y: Tensor) -> Tensor:
        return getattr(self.func, "evaluate", self.func)(t, y)  # type: ignore[no-any-return]
