"""One step of an explicit method, compiled; the loop around it stays as it is, with all that it can do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..one_step import Accuracy, ExplicitRungeKutta
from ..step import Field, StepSize, Trial, runge_kutta_step
from ..tableau import ButcherTableau
from . import capture

BACKEND = "inductor"


class CompiledTableau:
    """An explicit tableau whose steps are compiled: a `Method` like the tableau itself."""

    def __init__(self, tableau: ButcherTableau) -> None:
        self.tableau = tableau

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tableau, name)

    def bind(self, field: Field, accuracy: Accuracy) -> CompiledRungeKutta:
        return CompiledRungeKutta(self.tableau, field)


class CompiledRungeKutta(ExplicitRungeKutta):
    def __init__(self, tableau: ButcherTableau, field: Field) -> None:
        super().__init__(tableau, field)
        self.evaluate = getattr(field, "evaluate", field)

    def trial(
        self, times: Sequence[Tensor], h: StepSize, y: Tensor, derivative: Callable[[], Tensor], with_error: bool = True
    ) -> Trial:
        # a tensor, as a number would be compiled in
        h = h if isinstance(h, Tensor) else torch.tensor(h, dtype=y.real.dtype, device=y.device)
        trial = _program(self.tableau, with_error)(self.evaluate, tuple(times), h, y, derivative())
        if hasattr(self.field, "nfe"):
            self.field.nfe += self.tableau.stages - 1
        return trial


@functools.lru_cache(maxsize=32)
def _program(tableau: ButcherTableau, with_error: bool) -> Callable[..., Trial]:
    def step(field: Field, times: tuple[Tensor, ...], h: Tensor, y: Tensor, f0: Tensor) -> Trial:
        return runge_kutta_step(field, tableau, times, h, y, f0, with_error)

    return capture.with_variants(step, 64, backend=BACKEND)
