"""Events in the loops that step: what happens to the clock when something happened, with one clock or one per sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import Status
from ..field import FlatField
from ..integrator import CutStep, Integrator, Step
from ..masked import RUNNING, Clock, MaskedStep, Stepper
from ..step import over_state
from .event import Event, EventWatch, Stretch


def watch_steps(integrator: Integrator, flat: FlatField, events: Sequence[Event]) -> EventWatch:
    """Let an integrator record, end or jump at events after each of its steps."""
    watch = EventWatch(events, flat, integrator.t, integrator.y, integrator.direction)
    if bool(watch.nan):
        integrator.fail(Status.NON_FINITE, f"{watch.cause()} at t = {integrator.now:.6g}.")

    def inspect(integrator: Integrator, step: Step) -> Step:
        crossed = watch.look(integrator.t, integrator.y)
        happened, nan = torch.stack([crossed.any(), watch.nan]).tolist()
        if nan:
            integrator.fail(Status.NON_FINITE, f"{watch.cause()} at t = {integrator.now:.6g}.")
            return step
        if not happened:
            return step
        step.finish()  # its polynomial may want the field at its end

        def state_at(t: Tensor) -> Tensor:
            return step.evaluate(t.reshape(1), [float(t.detach())], own=False)[0]

        outcome = watch.settle(Stretch(step.t0, integrator.t, integrator.y, state_at), crossed)
        acted, ended, failed = torch.stack([outcome.acted, outcome.ended, outcome.failed]).tolist()
        if failed:
            integrator.fail(
                Status.TOO_MANY_EVENTS,
                f"{Status.TOO_MANY_EVENTS.meaning} (t = {float(outcome.t.detach()):.6g}): raise Event(limit=...) if so many "
                "are right, or end the solve with a terminal event.",
            )
        if not acted:
            return step
        if outcome.slope is not None:
            integrator.restart(outcome.t, outcome.after, outcome.slope)
        else:  # the solve ends here
            integrator.t, integrator.now, integrator.y = outcome.t, float(outcome.t.detach()), outcome.before
        if ended:
            integrator.fail(Status.EVENT, "")
        return CutStep(step, integrator.now, outcome.before)

    integrator.watch = inspect
    return watch


class PerSampleEvents:
    """The events of a solve in which every sample has its own clock.

    Args:
        watch: the events.
        stepper: constants of the solve.

    Attributes:
        cause: what else there is to say of a failure.
    """

    def __init__(self, watch: EventWatch, stepper: Stepper) -> None:
        self.watch, self.stepper, self.cause = watch, stepper, ""

    def without_nan(self, clock: Clock) -> Clock:
        """The clock stopped where an event's value is NaN."""
        if not bool(self.watch.nan.any()):
            return clock
        self.cause = self.watch.cause()
        return clock._replace(status=clock.status.masked_fill(self.watch.nan, int(Status.NON_FINITE)))

    def look(self, clock: Clock, step: MaskedStep) -> Tensor:
        """How many crossings (and NaNs) there were in the step, a 0-dim tensor."""
        self.crossed = self.watch.look(clock.t, clock.y, step.accept)
        return self.crossed.sum() + self.watch.nan.sum()

    def settle(self, clock: Clock, step: MaskedStep) -> tuple[Clock, MaskedStep]:
        """The clock after the events of this step, and the part of the step that counts."""
        stages, polynomial = torch.stack(step.stages, dim=1), self.stepper.polynomial(step.t0)

        def state_at(t: Tensor) -> Tensor:
            return polynomial(t, step.t0, step.h, step.y0, stages)

        out = self.watch.settle(Stretch(step.t0, clock.t, clock.y, state_at), self.crossed)
        acted = over_state(out.acted, clock.y)
        y = torch.where(acted, out.after, clock.y)
        f = clock.f if out.slope is None else torch.where(acted, out.slope, clock.f)
        arrived = (self.stepper.limit - out.t) * self.stepper.direction <= 0
        status = torch.where(out.acted & (clock.status == int(Status.SUCCESS)) & ~arrived, RUNNING, clock.status)
        status = status.masked_fill(out.ended, int(Status.EVENT))
        status = status.masked_fill(out.failed, int(Status.TOO_MANY_EVENTS))
        if out.slope is not None:
            self.stepper.bound.jumped()
        step = step._replace(t1=out.t, y1=torch.where(acted, out.before, step.y1))
        return self.without_nan(clock._replace(t=out.t, y=y, f=f, status=status)), step
