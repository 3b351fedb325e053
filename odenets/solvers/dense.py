"""The solution as a function of time, from the steps' polynomials."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .errors import InputError
from .integrator import Step
from .masked import MaskedStep
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
                raise InputError(
                    f"t must lie in [{first:.17g}, {last:.17g}], where the solution is known, got {value:.17g}."
                )
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


class PerSampleDense:
    """Callable t -> states, where every sample has steps of its own.

    A number t gives [batch, *state], times [T] for all samples or [batch, T] for each give [T, batch, *state].

    Args:
        steps: masked steps in walking order.
        polynomial: see `Stepper.polynomial`.
        layout: of the state.
        direction: +1.0 or -1.0.

    Raises:
        InputError: at a call, for times outside a sample's interval.
    """

    def __init__(
        self, steps: list[MaskedStep], polynomial: Callable[..., Tensor], layout: StateLayout, direction: float
    ) -> None:
        self.polynomial, self.layout, self.direction = polynomial, layout, direction
        self.t0, self.t1, self.h, self.y0 = (
            torch.stack([getattr(step, name) for step in steps]) for name in ("t0", "t1", "h", "y0")
        )
        self.stages = torch.stack([torch.stack(step.stages, 1) for step in steps])
        self.ends = (self.t1.detach() * direction).T.contiguous()  # [batch, steps]

    @property
    def interval(self) -> tuple[Tensor, Tensor]:
        """Start and end of every sample's solution, [batch] each."""
        return self.t0[0].detach(), self.t1[-1].detach()

    def __call__(self, t: Tensor | float) -> Any:
        t = torch.as_tensor(t, dtype=self.t0.dtype, device=self.t0.device)
        batch = len(self.ends)
        if t.dim() > 2 or (t.dim() == 2 and len(t) != batch):
            raise InputError(f"t must be a number, [T] or [{batch}, T], got shape {tuple(t.shape)}.")
        times = t.expand(batch, -1) if t.dim() else t.expand(batch, 1)
        along = (times.detach() * self.direction).contiguous()
        start = self.t0[0].detach() * self.direction
        inside = (along >= start[:, None]) & (along <= self.ends[:, -1:])
        if not bool(inside.all()):
            sample, which = (int(i) for i in (~inside).nonzero()[0])
            first, last = (float(end[sample]) for end in self.interval)
            raise InputError(
                f"t must lie between {first:.17g} and {last:.17g}, where the solution of sample {sample} is known, "
                f"got {float(times[sample, which]):.17g}."
            )
        which_step = torch.searchsorted(self.ends, along)
        samples = torch.arange(batch, device=t.device)[:, None].expand_as(which_step)
        at = (which_step.T.reshape(-1), samples.T.reshape(-1))
        ts = times.T.reshape(-1)
        states = self.polynomial(ts, self.t0[at], self.h[at], self.y0[at], self.stages[at])
        lead = tuple(times.T.shape)
        found = states.reshape(*lead, *states.shape[1:])
        return self.layout.unflatten(found if t.dim() else found[0], lead[:1] if t.dim() else ())
