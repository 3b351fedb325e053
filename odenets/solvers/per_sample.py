"""Adaptive integration with a step size of its own for every sample of the batch.

An eager loop around `masked.Stepper`; the host reads one small tensor per step, which tells
whether anyone is still running and how many outputs were passed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .errors import Status
from .events.event import EventWatch
from .events.stepping import PerSampleEvents
from .initial_step import initial_step
from .masked import RUNNING, Clock, MaskedStep, Stepper
from .step import over_state


class PerSampleOutputs:
    """Collects the states at output times that samples pass at different steps.

    Args:
        ts: output times in walking order, shared [T] or per sample [batch, T].
        stepper: constants of the solve.
        y0: state at the first output time [batch, ...].
    """

    def __init__(self, ts: Tensor, stepper: Stepper, y0: Tensor) -> None:
        self.stepper = stepper
        batch = len(y0)
        self.ts = ts.expand(batch, -1) if ts.dim() == 1 else ts
        self.shared = ts.detach() * stepper.direction if ts.dim() == 1 else None
        self.sorted = (self.ts.detach() * stepper.direction).contiguous()
        self.samples = torch.arange(batch, device=y0.device)
        self.passed = torch.ones(batch, dtype=torch.int64, device=y0.device)
        self.polynomial = stepper.polynomial(ts)
        self.where: list[Tensor] = []
        self.which: list[Tensor] = [torch.zeros_like(self.samples)]
        self.values: list[Tensor] = [y0]
        self.where.append(self.samples)

    def count(self, step: MaskedStep) -> tuple[Tensor, Tensor]:
        """How many outputs each sample has passed after this step [batch], and how many of them are new."""
        reached = (step.t1.detach() * self.stepper.direction)[:, None]
        if self.shared is not None:
            now = torch.searchsorted(self.shared, reached[:, 0].contiguous(), right=True)
        else:
            now = torch.searchsorted(self.sorted, reached, right=True)[:, 0]
        return now, now - self.passed

    def collect(self, step: MaskedStep, now: Tensor, new: Tensor, total: int) -> None:
        """Evaluate the step's polynomial at the `total` outputs that were passed."""
        if total:
            sample = torch.repeat_interleave(self.samples, new, output_size=total)
            first = torch.cumsum(new, 0) - new
            index = torch.arange(total, device=sample.device) - first[sample] + self.passed[sample]
            self.where.append(sample)
            self.which.append(index)
            self.values.append(self._evaluate(step, sample, self.ts[sample, index]))
        self.passed = now

    def _evaluate(self, step: MaskedStep, sample: Tensor, ts: Tensor) -> Tensor:
        stages = torch.stack([stage[sample] for stage in step.stages], dim=1)  # [m, stages, ...]
        inside = self.polynomial(ts, step.t0[sample], step.h[sample], step.y0[sample], stages)
        at_end = over_state(ts == step.t1[sample], inside)
        return torch.where(at_end, step.y1[sample], inside)

    def stacked(self) -> Tensor:
        """States [T, batch, ...], NaN where a sample did not arrive."""
        values = torch.cat(self.values)
        ys = values.new_full((self.ts.shape[1], len(self.samples), *values.shape[1:]), float("nan"))
        return ys.index_put((torch.cat(self.which), torch.cat(self.where)), values)


class PerSampleSolve(NamedTuple):
    """States [T, batch, ...] at the output times, the clock at the end (its status holds `Status` codes), the steps
    (where they were to be kept), and what else there is to say of a failure."""

    ys: Tensor
    clock: Clock
    steps: list[MaskedStep]
    cause: str


def integrate_per_sample(
    stepper: Stepper,
    ts: Tensor,
    y0: Tensor,
    first_step: float | None,
    events: EventWatch | None = None,
    keep_steps: bool = False,
) -> PerSampleSolve:
    """Solve from ts[..., 0] to ts[..., -1].

    Args:
        stepper: constants of the solve.
        ts: output times in walking order, [T] or [batch, T]; the first is the start.
        y0: state there [batch, ...].
        first_step: first size; None chooses one per sample.
        events: what to watch for.
        keep_steps: whether to keep all steps.

    A sample that failed stays in the batch, at the state where it failed. If the field itself is NaN there, gradients
    with respect to what all samples share are NaN too; those of the other samples' own states are not.
    """
    t = ts[..., 0].expand(len(y0)).clone()
    time_dtype = torch.empty((), dtype=y0.dtype).abs().dtype
    f = stepper.field(t.to(time_dtype), y0)
    if first_step is None:
        size = initial_step(
            stepper.field, t, y0, f, stepper.direction, stepper.method.control_order - 1, stepper.rtol, stepper.atol,
            stepper.norm, stepper.limit,
        )  # fmt: skip
    else:
        size = torch.full_like(t, first_step)
    clock = stepper.start(t, size.detach(), y0, f)
    outputs = PerSampleOutputs(ts, stepper, y0)
    watch = None if events is None else PerSampleEvents(events, stepper)
    clock = clock if watch is None else watch.without_nan(clock)
    kept: list[MaskedStep] = []
    while True:
        before = clock
        clock, step = stepper(before)
        now, new = outputs.count(step)
        spoiled = (~step.accept & ~step.finite).sum()
        crossings = spoiled.new_zeros(()) if watch is None else watch.look(clock, step)
        running, total, refused, crossed = torch.stack(
            [(clock.status == RUNNING).sum(), new.sum(), spoiled, crossings]
        ).tolist()
        if refused and torch.is_grad_enabled():
            # a refused step that was not finite would put 0 * NaN into the gradients: leave it out of the graph
            again, step = stepper(before, only=step.accept)
            clock = clock._replace(t=again.t, y=again.y, f=again.f)
        if crossed:
            assert watch is not None
            clock, step = watch.settle(clock, step)
            now, new = outputs.count(step)
            running, total = torch.stack([(clock.status == RUNNING).sum(), new.sum()]).tolist()
        outputs.collect(step, now, new, total)
        if keep_steps:
            kept.append(step)
        if not running:
            cause = "" if watch is None else watch.cause
            if not cause and bool((clock.status == int(Status.NONLINEAR)).any()):
                cause = stepper.bound.cause
            return PerSampleSolve(outputs.stacked(), clock, kept, cause)


def accepted_states(steps: list[MaskedStep]) -> tuple[Tensor, Tensor, Tensor]:
    """Times [batch, S] and states [S, batch, ...] of the start and all accepted steps, NaN after a sample's last one,
    and how many each sample has [batch].
    """
    accept = torch.stack([step.accept for step in steps])
    which, sample = accept.nonzero(as_tuple=True)
    count = accept.cumsum(0)
    index = count[which, sample]
    t0, y0, most = steps[0].t0, steps[0].y0, int(count[-1].max()) + 1
    ts = torch.cat([t0[None], t0.new_full((most - 1, len(t0)), torch.nan)])
    ys = torch.cat([y0[None], y0.new_full((most - 1, *y0.shape), torch.nan)])
    ts = ts.index_put((index, sample), torch.stack([step.t1 for step in steps])[which, sample])
    ys = ys.index_put((index, sample), torch.stack([step.y1 for step in steps])[which, sample])
    return ts.T, ys, count[-1] + 1


def failure_message(status: Tensor, t: Tensor, cause: str = "") -> str:
    """One line on the samples that failed, from statuses and times [batch], with what else there is to say; empty if
    none did.
    """
    failed = ((status != int(Status.SUCCESS)) & (status != int(Status.EVENT))).nonzero()[:, 0]
    if not len(failed):
        return ""
    parts = []
    for code in status[failed].unique().tolist():
        samples = (status == code).nonzero()[:, 0]
        first = int(samples[0])
        parts.append(
            f"{len(samples)} of {len(status)} samples: {Status(code).meaning} "
            f"(first: sample {first} at t = {float(t[first]):.6g})"
        )
    return "; ".join([*parts, *[cause] * bool(cause)])
