"""A trial step for many clocks at once, as a pure function: nothing waits for the host.

Every sample (or the batch as a whole, when the clock has no dimension) has its own time, step size, controller
history and status; those that have arrived or failed stay where they are. The loop around it decides how often to
look. This is the form that can be compiled whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .controller import PIDController
from .errors import Status
from .norms import Norm
from .one_step import Accuracy, BoundMethod, Method, bind
from .step import Field, error_ratio, over_state, stage_times

RUNNING = -1


class Clock(NamedTuple):
    """Where every sample is. B is the clock's shape, [batch] or [].

    Attributes:
        t: time [B].
        size: size of the next step [B], positive.
        y, f: state and derivative there [*B, ...].
        previous, before: error ratios of the last two accepted steps [B].
        status: RUNNING or a `Status` [B], int64.
        accepted, rejected: steps so far [B], int64.
    """

    t: Tensor
    size: Tensor
    y: Tensor
    f: Tensor
    previous: Tensor
    before: Tensor
    status: Tensor
    accepted: Tensor
    rejected: Tensor


class MaskedStep(NamedTuple):
    """What a masked step did: from t0 to t1 (equal where nothing was accepted), step h [B], and the stages.

    `accept` and `finite` [B] say where the step was taken, and where its error was a number at all; `updates` as in
    `Trial`.
    """

    t0: Tensor
    t1: Tensor
    h: Tensor
    y0: Tensor
    y1: Tensor
    stages: list[Tensor]
    accept: Tensor
    finite: Tensor
    updates: Tensor | None = None


@dataclass(frozen=True, eq=False)  # hashed as what it is: the compiler asks before the fields are there
class Stepper:
    """The constants of a masked solve: see `AdaptiveIntegrator` for their meaning.

    Args:
        method: a one-step method with an error estimate.
        nodes: its c as a tensor [s] of the times' dtype.
        limit: end of each sample's interval, [B] or [].
        norm: of scaled errors, -> [B].
        per_sample: whether the clock is [batch], not [].
    """

    field: Field
    method: Method
    nodes: Tensor
    limit: Tensor
    direction: float
    rtol: float | Tensor
    atol: float | Tensor
    norm: Norm
    controller: PIDController
    min_step: float
    max_step: float
    max_steps: int | Tensor
    per_sample: bool = True
    bound: BoundMethod = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        accuracy = Accuracy(self.rtol, self.atol, self.norm, self.per_sample)
        object.__setattr__(self, "bound", bind(self.method, self.field, accuracy))

    def start(self, t: Tensor, size: Tensor, y: Tensor, f: Tensor) -> Clock:
        one = torch.ones_like(size)
        count = torch.zeros(t.shape, dtype=torch.int64, device=t.device)
        return Clock(t, size, y, f, one, one, torch.full_like(count, RUNNING), count, count)

    def __call__(self, clock: Clock, only: Tensor | None = None) -> tuple[Clock, MaskedStep]:
        """One trial step of every running sample; with `only` [B], the step already known to be accepted there."""
        t, y = clock.t, clock.y
        time_dtype = torch.empty((), dtype=y.dtype).abs().dtype
        running = clock.status == RUNNING
        left = (self.limit - t) * self.direction
        # bounds and history that the settings do not use are left out, not computed: small states feel every operation
        bounded = self.min_step > 0 or self.max_step < float("inf")
        wanted = clock.size.clamp(self.min_step, self.max_step) if bounded else clock.size
        arrives = wanted >= left * (1 - 1e-14)
        size = torch.where(arrives, left, wanted).masked_fill(~running, 0.0)
        if only is not None:
            size = torch.where(only, size, 0.0)
        h = size * self.direction
        times = stage_times(self.nodes, t, h, time_dtype)
        trial = self.bound.trial(times, over_state(h, y).to(y.dtype), y, lambda: clock.f)
        with torch.no_grad():
            norm = trial.ratio
            if norm is None:
                assert trial.error is not None
                norm = self.norm(error_ratio(trial.error, y, trial.y1, self.rtol, self.atol))
            ratio = torch.as_tensor(norm).abs().to(size.dtype)
            if isinstance(trial.failed, Tensor):
                ratio = ratio.masked_fill(trial.failed, float("inf"))
            finite = ratio < float("inf")
            small_enough = ratio <= 1
            if self.min_step > 0:
                small_enough = small_enough | (finite & (size <= self.min_step))
            standing = (t + h == t) & ~arrives  # below what the time resolves: only the state would move
            accept = running & small_enough & ~standing if only is None else only
            refused = running & ~accept
            arrived = accept & arrives
            factor = self.controller.factor(self.method.control_order, ratio, clock.previous, clock.before)
            proposed = size * factor
            # a step cut short by the end says little about the size to go on with
            proposed = torch.where(arrived, torch.maximum(proposed, wanted), proposed)
            next_size = torch.where(running, proposed, clock.size)
            previous, before = clock.previous, clock.before
            if self.controller.p or self.controller.d:
                previous = torch.where(accept, self.controller.remembered(ratio), clock.previous)
                before = torch.where(accept, clock.previous, clock.before)
        self.bound.accepted(accept)
        t1 = torch.where(accept, torch.where(arrives, self.limit, t + h), t)
        mask = over_state(accept, y)
        y1 = torch.where(mask, trial.y1, y)
        stages = trial.stages
        if not self.method.fsal:
            stages = [*stages, self.field(t1.to(time_dtype), y1)]
        f = torch.where(mask, stages[-1], clock.f)
        accepted = clock.accepted + accept
        rejected = clock.rejected + refused
        trials = accepted + rejected
        status = self._status(clock, running, refused, arrived, finite, trial.failed, standing, next_size, trials)
        next_clock = Clock(t1, next_size, y1, f, previous, before, status, accepted, rejected)
        return next_clock, MaskedStep(t, t1, h, y, y1, stages, accept, finite, trial.updates)

    def _status(self, clock, running, refused, arrived, finite, failed, standing, next_size, trials) -> Tensor:
        span = torch.maximum(clock.t.abs(), self.limit.abs())
        stuck = (next_size <= span * torch.finfo(next_size.dtype).eps) | standing
        if self.min_step > 0:
            stuck = stuck | (clock.size <= self.min_step)
        stuck = stuck & refused
        status = clock.status.masked_fill(running & (trials >= self.max_steps), int(Status.MAX_STEPS))
        status = status.masked_fill(stuck, int(Status.STEP_TOO_SMALL))
        status = status.masked_fill(stuck & ~finite, int(Status.NON_FINITE))
        if isinstance(failed, Tensor):
            status = status.masked_fill(stuck & failed, int(Status.NONLINEAR))
        return status.masked_fill(arrived, int(Status.SUCCESS))

    def polynomial(self, like: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The method's dense output in the dtype of times `like`, for steps [m] at one time each:
        (times, the steps' starts and sizes [m], states there [m, ...], stages [m, stages or more, ...]) -> states.
        """
        coefficients = torch.from_numpy(self.method.dense).to(like)
        degrees = torch.arange(1, coefficients.shape[1] + 1, device=like.device, dtype=like.dtype)

        def evaluate(ts: Tensor, t0: Tensor, h: Tensor, y0: Tensor, stages: Tensor) -> Tensor:
            theta = (ts - t0) / torch.where(h == 0, 1.0, h)  # a step that was not taken has no size
            weights = (theta[:, None] ** degrees @ coefficients.T * h[:, None]).to(y0.dtype)  # [m, stages]
            return y0 + torch.einsum("ms,ms...->m...", weights, stages[:, : weights.shape[1]])

        return evaluate
