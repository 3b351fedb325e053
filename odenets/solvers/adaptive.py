"""Adaptive Runge-Kutta integration with one step size for the whole batch.

The loop reads one number per trial step from the device, the norm of the scaled error; everything else it needs to
decide (times, sizes, limits) it holds as Python floats beside the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .controller import PIDController
from .errors import InputError, Status
from .initial_step import initial_step
from .integrator import Callbacks, Integrator, Step
from .norms import Norm
from .one_step import Accuracy, Method, bind
from .step import Field, StepSize, Trial, carries_derivative, error_ratio, stage_times


class AdaptiveIntegrator(Integrator):
    """Walks with a step size chosen so that norm(error / (atol + rtol max(|y0|, |y1|))) <= 1.

    Args:
        field: f(t, y) on flat states.
        method: a one-step method with an error estimate.
        t0: start, a 0-dim tensor in the precision that times are to be kept in.
        y0: state.
        direction: +1.0 or -1.0.
        rtol, atol: tolerances, floats or tensors that broadcast against the state.
        norm: of the scaled error, -> number.
        controller: step size control.
        first_step: first size (> 0); None chooses it (HNW section II.4).
        min_step: steps of at most this size are accepted whatever their error.
        max_step: largest size.
        max_steps: limit on trial steps, counted from each `aim`.
        step_t: times to step on, ascending.
        jump_t: the same, and f is discontinuous there: it is evaluated just before and just after.
        callbacks: see `Callbacks`.
    """

    def __init__(
        self,
        field: Field,
        method: Method,
        t0: Tensor,
        y0: Tensor,
        direction: float,
        *,
        rtol: float | Tensor,
        atol: float | Tensor,
        norm: Norm,
        controller: PIDController,
        first_step: float | None = None,
        min_step: float = 0.0,
        max_step: float = math.inf,
        max_steps: int = 2**31 - 1,
        step_t: Tensor | None = None,
        jump_t: Tensor | None = None,
        callbacks: Callbacks | None = None,
    ) -> None:
        super().__init__(t0, y0, direction)
        self.field = field
        self.method = method
        self.bound = bind(method, field, Accuracy(rtol, atol, norm))
        self.rtol, self.atol, self.norm = rtol, atol, norm
        self.controller = controller
        self.first_step = first_step
        self.min_step, self.max_step, self.max_steps = min_step, max_step, max_steps
        self.callbacks = callbacks or Callbacks()
        self.time_dtype = torch.empty((), dtype=y0.dtype).abs().dtype
        self.nodes = torch.tensor(method.c, dtype=t0.dtype, device=t0.device)
        self.stops = _Stops(step_t, jump_t, direction, self.now)
        self._round = _rounding(t0.dtype)
        self.f: Tensor | None = None
        self.after_jump = False
        self.size: float | None = None
        self.previous = self.before = 1.0
        self.limit: float | None = None
        self.limit_tensor: Tensor | None = None
        self.attempts = 0

    def aim(self, ts: Tensor | None, end: float | None = None) -> None:
        self.limit = end
        self.limit_tensor = None if ts is None else ts[-1].to(self.t.dtype)
        self.attempts = 0
        self._derivative()
        if self.size is None:
            self.size = self._first_size()

    def jump(self, y: Tensor) -> None:
        self.y, self.f = y, None
        self.bound.jumped()

    def restart(self, t: Tensor, y: Tensor, slope: Tensor) -> None:
        super().restart(t, y, slope)
        self.stops.back_to(self.now)
        self.after_jump = self.after_jump and self.stops.jumps_at(self.now)
        self.f = None if self.after_jump else slope

    def _first_size(self) -> float:
        assert self.f is not None
        if self.first_step is not None:
            return self.first_step
        order = self.method.control_order - 1
        size = initial_step(
            self.field, self.t, self.y, self.f, self.direction, order, self.rtol, self.atol, self.norm,
            self.limit_tensor,
        )  # fmt: skip
        return float(size)

    def step(self) -> Step | None:
        assert self.size is not None
        nonfinite, refusals, unsolved = False, 0, False
        while self.status is Status.SUCCESS:
            if self.attempts >= self.max_steps:
                self._fail_at_limit()
                return None
            wanted = self.size if math.isfinite(self.size) else self.min_step
            wanted = min(max(wanted, self.min_step), self.max_step)
            h, size, end, stop = self._clipped(wanted)
            if end == self.now:
                self._fail_too_small(size, nonfinite, unsolved)
                return None
            if self.callbacks.step is not None:
                self.callbacks.step(self.t, self.y, self.t.new_tensor(size))
            self.attempts += 1
            trial, ratio = self._trial(h, stop)
            accept = ratio <= 1 or (size <= self.min_step and ratio < math.inf)
            nonfinite, unsolved = not ratio < math.inf, bool(trial.failed)
            if nonfinite and (size <= self.min_step or self._hopeless(refusals := refusals + 1)):
                self._fail_too_small(size, nonfinite, bool(trial.failed))
                return None
            factor = self.controller.factor(self.method.control_order, ratio, self.previous, self.before)
            callback = self.callbacks.accept if accept else self.callbacks.reject
            if callback is not None:
                callback(self.t, self.y, self.t.new_tensor(size))
            next_size = self._round(size * factor)
            if accept:
                # a step cut short by a stop says little about the size to go on with
                self.size = max(next_size, wanted) if size < wanted else next_size
                self.previous, self.before = self.controller.remembered(ratio), self.previous
                return self._accepted(h, end, stop, trial)
            self.size = next_size
            self.rejected += 1
        return None

    def _clipped(self, wanted: float) -> tuple[StepSize, float, float, _Stop | None]:
        """The step to try: signed size (a tensor where it carries gradients), size, end, and the stop it ends at."""
        stop = self.stops.next(self.limit, self.limit_tensor)
        if stop is not None:
            left = (stop.time - self.now) * self.direction
            beyond = (self._round(self.now + wanted * self.direction) - stop.time) * self.direction >= 0
            if beyond or wanted >= left * (1 - 1e-14):
                h: StepSize = left * self.direction
                if carries_derivative(stop.tensor) or carries_derivative(self.t):
                    h = stop.tensor - self.t
                return h, left, stop.time, stop
        h = wanted * self.direction
        return h, wanted, self._round(self.now + h), None

    def _trial(self, h: StepSize, stop: _Stop | None) -> tuple[Trial, float]:
        times = stage_times(self.nodes, self.t, h, self.time_dtype)
        if self.after_jump:
            times = tuple(self._start_time() if c == 0 else time for c, time in zip(self.method.c, times))
        if stop is not None and stop.is_jump:
            just_before = next_after(stop.tensor.to(self.time_dtype), -self.direction)
            times = tuple(just_before if c == 1 else time for c, time in zip(self.method.c, times))
        trial = self.bound.trial(times, h, self.y, self._derivative)
        if trial.failed:
            return trial, math.inf
        with torch.no_grad():
            norm = trial.ratio
            if norm is None:
                assert trial.error is not None
                norm = self.norm(error_ratio(trial.error, self.y, trial.y1, self.rtol, self.atol))
            ratio = abs(float(norm))
        return trial, ratio

    def _derivative(self) -> Tensor:
        """f at the present state; just after a discontinuity that the last step ended at."""
        if self.f is None:
            self.f = self.field(self._start_time(), self.y)
        return self.f

    def _start_time(self) -> Tensor:
        """Where the field is evaluated at the present state: just beyond a discontinuity."""
        t = self.t.to(self.time_dtype)
        return next_after(t, self.direction) if self.after_jump else t

    def _accepted(self, h: StepSize, end: float, stop: _Stop | None, trial) -> Step:
        t0, start, y0 = self.t, self.now, self.y
        self.t = t0 + h if stop is None else stop.tensor
        self.now, self.y = end, trial.y1
        self.after_jump = stop is not None and stop.is_jump
        self.f = trial.stages[-1] if self.method.fsal and not self.after_jump else None
        end_derivative = self._derivative
        if self.after_jump:  # this step's polynomial wants the side it came from
            y1, just_before = trial.y1, next_after(self.t.to(self.time_dtype), -self.direction)
            end_derivative = lambda: self.field(just_before, y1)  # noqa: E731
        self.stops.passed(end)
        self.bound.accepted()
        self.accepted += 1
        return Step(
            t0, start, end, h, y0, trial.y1, trial.stages, self.method.dense, end_derivative,
            ends_at_output=isinstance(h, Tensor) and stop is not None and stop.is_limit,
        )  # fmt: skip

    def _hopeless(self, refusals: int) -> bool:
        """Whether a NaN will not go away with smaller steps: it is there at the start, or many reductions kept it."""
        if refusals > 1:
            return refusals > 50
        return not bool(torch.isfinite(self._derivative()).all() & torch.isfinite(self.y).all())

    def _fail_at_limit(self) -> None:
        self.fail(
            Status.MAX_STEPS,
            f"max_num_steps exceeded ({self.attempts}>={self.max_steps}) at t = {self.now:.6g}: allow more steps, "
            "loosen the tolerances, or use a method for stiff problems.",
        )

    def _fail_too_small(self, size: float, nonfinite: bool, unsolved: bool = False) -> None:
        where = f"at t = {self.now:.6g}"
        if not bool(torch.isfinite(self.y).all()):
            self.fail(
                Status.NON_FINITE, f"non-finite values in state `y` {where}: the solve was given or produced them."
            )
        elif nonfinite and not bool(torch.isfinite(self._derivative()).all()):
            self.fail(Status.NON_FINITE, f"the vector field is NaN or infinite {where}.")
        elif unsolved:
            self.fail(
                Status.NONLINEAR,
                f"no step from {where[3:]} down to h = {size:.3g} could be computed: {self.bound.cause}.",
            )
        elif nonfinite:
            self.fail(
                Status.NON_FINITE,
                f"the vector field is NaN or infinite just after t = {self.now:.6g} (or atol is 0 where the state is 0): "
                f"every step down to h = {size:.3g} was rejected for it.",
            )
        elif not self.attempts:
            self.fail(
                Status.STEP_TOO_SMALL, f"underflow in dt {size:.3g} {where}: that is below the time's resolution."
            )
        else:
            self.fail(
                Status.STEP_TOO_SMALL,
                f"underflow in dt {size:.3g} {where}: the error stays above the tolerance at the smallest step that the "
                "time's precision resolves; the solution may blow up there, or the tolerance be below round-off.",
            )


class _Stop:
    """A time that must be stepped on."""

    def __init__(self, tensor: Tensor, time: float, is_jump: bool = False, is_limit: bool = False) -> None:
        self.tensor, self.time, self.is_jump, self.is_limit = tensor, time, is_jump, is_limit


class _Stops:
    """The times ahead that must be stepped on, in walking order."""

    def __init__(self, step_t: Tensor | None, jump_t: Tensor | None, direction: float, now: float) -> None:
        self.direction = direction
        stops = []
        for tensor, is_jump in ((step_t, False), (jump_t, True)):
            for time in () if tensor is None else tensor.reshape(-1).unbind():
                if (float(time) - now) * direction > 0:
                    stops.append(_Stop(time.detach(), float(time), is_jump))
        self.stops = sorted(stops, key=lambda stop: stop.time * direction)
        times = [stop.time for stop in self.stops]
        if len(set(times)) < len(times):
            raise InputError("`step_t` and `jump_t` must not have any repeated elements between them.")
        self.index = 0

    def next(self, limit: float | None, limit_tensor: Tensor | None) -> _Stop | None:
        stop = self.stops[self.index] if self.index < len(self.stops) else None
        if limit is None or (stop is not None and (stop.time - limit) * self.direction < 0):
            return stop
        assert limit_tensor is not None
        return _Stop(
            limit_tensor, limit, is_jump=stop is not None and stop.time == limit and stop.is_jump, is_limit=True
        )

    def passed(self, end: float) -> None:
        while self.index < len(self.stops) and (self.stops[self.index].time - end) * self.direction <= 0:
            self.index += 1

    def back_to(self, now: float) -> None:
        """The stops beyond a time within the last step are ahead again."""
        while self.index and (self.stops[self.index - 1].time - now) * self.direction > 0:
            self.index -= 1

    def jumps_at(self, now: float) -> bool:
        return self.index > 0 and self.stops[self.index - 1].time == now and self.stops[self.index - 1].is_jump


def _rounding(dtype: torch.dtype) -> Callable[[float], float]:
    """What storing a time in that precision makes of it."""
    if dtype == torch.float64:
        return float
    if dtype == torch.float32:
        return lambda x: float(np.float32(x))
    return lambda x: float(torch.tensor(x, dtype=dtype))


def next_after(t: Tensor, direction: float) -> Tensor:
    """The next representable time in that direction, with t's gradient."""
    with torch.no_grad():
        neighbour = torch.nextafter(t, torch.full_like(t, direction * math.inf))
    return t + (neighbour - t).detach() if t.requires_grad else neighbour
