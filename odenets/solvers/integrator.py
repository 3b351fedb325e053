"""What all step-by-step integrators share: accepted steps with dense output, and output at given times.

An integrator holds a state at a time and walks in one direction. `aim` tells it where to stop, `step` takes one
accepted step and returns it as a `Step`, `outputs` walks through given times, `jump` changes the state in between and
keeps the step size. Times exist twice: as tensors, through which gradients flow, and as Python floats, by which the
loop decides without waiting for a device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

from .errors import Status
from .step import StepSize, add_scaled, carries_derivative, weighted_sum


@dataclass
class Callbacks:
    """Functions (t0, y0, dt) called before each trial step, and when it has been accepted or rejected."""

    step: Callable[[Tensor, Tensor, Tensor], None] | None = None
    accept: Callable[[Tensor, Tensor, Tensor], None] | None = None
    reject: Callable[[Tensor, Tensor, Tensor], None] | None = None


@dataclass
class Step:
    """An accepted step from t0 to t1 with its polynomial between them.

    Attributes:
        t0: start, 0-dim tensor; `start` and `end` are both times as floats.
        h: signed step size.
        y0, y1: the states at both ends.
        stages: k_i, to be weighted by the polynomials.
        coefficients: [stages, degree], b_i(theta) / theta in rising powers, as in `ButcherTableau.interpolant`;
            needs one more stage than there are where f at the end is not among them.
        end_derivative: computes f at the end.
        ends_at_output: whether the step's own size carries the gradient of the time it ends at.
    """

    t0: Tensor
    start: float
    end: float
    h: StepSize
    y0: Tensor
    y1: Tensor
    stages: list[Tensor]
    coefficients: np.ndarray
    end_derivative: Callable[[], Tensor] | None = field(repr=False)
    ends_at_output: bool = False

    def finish(self) -> None:
        """Take f at the end while the integrator stands there, and let go of the integrator."""
        self._with_end_derivative()
        self.end_derivative = None

    def _with_end_derivative(self) -> list[Tensor]:
        if len(self.stages) < len(self.coefficients):
            assert self.end_derivative is not None
            # it is kept, so it must be recorded like the step was, even if it is first wanted under no_grad
            with torch.set_grad_enabled(self.y1.requires_grad):
                self.stages = [*self.stages, self.end_derivative()]
        return self.stages

    def evaluate(self, ts: Tensor, times: list[float], own: bool = True) -> Tensor:
        """States [m, *state] at m times within the step, given as a tensor [m] and as floats, in
        walking order.

        `own` says that they are the times the solve was asked for, of which the last may be the one the step was cut
        to: then the step's size carries its gradient.
        """
        if carries_derivative(ts) or carries_derivative(self.t0):
            if own and self.ends_at_output and times[-1] == self.end:
                head = self._polynomial(ts[:-1]) if len(times) > 1 else self.y1.new_empty((0, *self.y1.shape))
                return torch.cat([head, self.y1[None]])
            return self._polynomial(ts)
        return self._at(times)

    def _at(self, times: list[float]) -> Tensor:
        inside = [time for time in times if time != self.end]
        ends = [self.y1[None].expand(len(times) - len(inside), *self.y1.shape)]
        if not inside:
            return ends[0]
        h = self.end - self.start
        theta = (np.array(inside) - self.start) / h
        weights = np.vander(theta, self.coefficients.shape[1] + 1, increasing=True)[:, 1:] @ self.coefficients.T
        stages = self._with_end_derivative()
        if len(inside) == 1:
            states = add_scaled(self.y0, h, weighted_sum(weights[0].tolist(), stages))[None]
        else:
            states = self._combined(torch.from_numpy(weights * h).to(self.y0.device, self.y0.dtype), stages)
        return torch.cat([states, *ends]) if len(inside) < len(times) else states

    def _polynomial(self, ts: Tensor) -> Tensor:
        """The same with everything as tensors, so that gradients reach t0 and ts."""
        h = self.h if isinstance(self.h, Tensor) else self.end - self.start
        powers = torch.arange(1, self.coefficients.shape[1] + 1, device=ts.device, dtype=self.t0.dtype)
        theta = (ts.to(self.t0.dtype) - self.t0) / h
        weights = theta[:, None] ** powers @ torch.from_numpy(self.coefficients).to(theta).T
        return self._combined((weights * h).to(self.y0.dtype), self._with_end_derivative())

    def _combined(self, weights: Tensor, stages: list[Tensor]) -> Tensor:
        return self.y0 + torch.tensordot(weights, torch.stack(stages), dims=1)


class CutStep(Step):
    """The part of a step up to a time within it, ending at a given state."""

    def __init__(self, step: Step, end: float, y1: Tensor) -> None:
        super().__init__(**{field.name: getattr(step, field.name) for field in fields(Step)})
        self.whole, self.end, self.y1 = step, end, y1

    def finish(self) -> None:
        self.whole.finish()

    def evaluate(self, ts: Tensor, times: list[float], own: bool = True) -> Tensor:
        return self.whole.evaluate(ts, times, own)


class Integrator(ABC):
    """A state walking through time.

    Attributes:
        t: time as a 0-dim tensor; `now` the same as a float.
        y: state there.
        direction: +1.0 or -1.0.
        status, message: how it went; `step` returns None once the status is not SUCCESS.
        accepted, rejected: steps so far.
        recorder: where to keep the steps, if anywhere.
        watch: (integrator, step) -> the part of the step that counts; may end the solve, or restart it within the step.
    """

    def __init__(self, t: Tensor, y: Tensor, direction: float) -> None:
        self.t = t
        self.now = float(t.detach())
        self.y = y
        self.direction = direction
        self.status = Status.SUCCESS
        self.message = ""
        self.accepted = 0
        self.rejected = 0
        self.recorder: list[Step] | None = None
        self.watch: Callable[[Integrator, Step], Step] | None = None

    @abstractmethod
    def aim(self, ts: Tensor | None, end: float | None = None) -> None:
        """The next times wanted, [m] in walking order; the last, `end`, is not overstepped. None: no end."""

    @abstractmethod
    def step(self) -> Step | None:
        """One accepted step, or None when the solve has failed."""

    @abstractmethod
    def jump(self, y: Tensor) -> None:
        """Replace the state, keep the step size."""

    def restart(self, t: Tensor, y: Tensor, slope: Tensor) -> None:
        """Go on from a time within the last step, at another state and the field there; keeps the step size."""
        self.t, self.now = t, float(t.detach())
        self.jump(y)

    def fail(self, status: Status, message: str) -> None:
        self.status, self.message = status, message

    def walk(self, ts: Tensor, times: list[float]) -> Iterator[tuple[Step, slice]]:
        """Steps to the last of the times ahead, each with the times in it; ends early if the solve does."""
        self.aim(ts, times[-1])
        i = 0
        while i < len(times) and self.status is Status.SUCCESS:
            step = self.step()
            if step is None:
                return
            if self.watch is not None:
                step = self.watch(self, step)
            j = i
            while j < len(times) and (times[j] - step.end) * self.direction <= 0:
                j += 1
            yield step, slice(i, j)
            i = j

    def outputs(self, ts: Tensor, times: list[float] | None = None) -> Tensor:
        """States at times `ts` [m] ahead in walking order: [m', *state], m' < m if the solve failed before the end.

        `times` are the same as floats, for a caller who has them.
        """
        times = ts.tolist() if times is None else times
        chunks: list[Tensor] = []
        for step, inside in self.walk(ts, times):
            if self.recorder is not None:
                step.finish()
                self.recorder.append(step)
            if inside.start < inside.stop:
                chunks.append(step.evaluate(ts[inside], times[inside]))
        return torch.cat(chunks) if chunks else self.y.new_empty((0, *self.y.shape))
