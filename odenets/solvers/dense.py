"""The solution as a function of time, from the steps' polynomials."""

from __future__ import annotations

import bisect
from typing import Any

import torch
from torch import Tensor

from .errors import InputError
from .integrator import Step
from .state import StateLayout


class DenseOutput:
    """Callable t [...] -> states [..., *y0.shape], inside the interval that was solved.

    Args:
        steps: accepted steps in walking order.
        layout: of the state.
        direction: +1.0 or -1.0.

    Raises:
        InputError: at a call, for times outside the interval.
    """

    def __init__(self, steps: list[Step], layout: StateLayout, direction: float) -> None:
        self.steps, self.layout, self.direction = steps, layout, direction
        self.ends = [step.end * direction for step in steps]

    @property
    def interval(self) -> tuple[float, float]:
        return self.steps[0].start, self.steps[-1].end

    def __call__(self, t: Tensor | float) -> Any:
        device = self.steps[0].y0.device
        t = torch.as_tensor(t, dtype=torch.float64, device=device)
        times = t.reshape(-1)
        values = times.tolist()
        first, last = sorted(self.interval)
        for value in values:
            if not first <= value <= last:
                raise InputError(f"t must lie in [{first:.17g}, {last:.17g}], where the solution is known, got {value:.17g}.")
        which = [min(bisect.bisect_left(self.ends, v * self.direction), len(self.steps) - 1) for v in values]
        parts: list[Tensor | None] = [None] * len(values)
        for index in set(which):
            members = sorted((i for i, w in enumerate(which) if w == index), key=lambda i: values[i] * self.direction)
            states = self.steps[index].evaluate(times[members], [values[i] for i in members], own=False)
            for i, state in zip(members, states.unbind()):
                parts[i] = state
        found = [part for part in parts if part is not None]
        flat = torch.stack(found) if found else self.steps[0].y0.new_empty((0, *self.steps[0].y0.shape))
        return self.layout.unflatten(flat.reshape(*t.shape, *flat.shape[1:]), tuple(t.shape))
