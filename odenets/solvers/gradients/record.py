"""A forward solve without a graph that remembers of each accepted step what it takes to run it again.

Of the step itself that is its size and its stages' times, a few numbers; which states to keep is the caller's choice.
The search for the step size and the rejected trials leave nothing behind: they are not differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..adaptive import AdaptiveIntegrator
from ..field import FlatField
from ..fixed import FixedIntegrator
from ..integrator import Integrator, Step
from ..one_step import BoundMethod
from ..step import StepSize, Trial
from .base import SolveProblem
from .random_state import RandomState

State = tuple[Tensor, ...]  # the state [*state] and the method's memory


@dataclass
class StepRecord:
    """An accepted step.

    Attributes:
        times: of the method's nodes, s of them, in the field's time precision.
        h: signed size.
        random: before the step's first evaluation.
        calls: random states before each of the trial's evaluations; empty where they are all the same.
        random_first: before f at the start was evaluated, where that happened earlier (in the step before).
        notes: of the bound method before the trial.
        carried: whether f at the start is the method's own `end_slope` from the step before.
        inside: the output times in this step.
        shape: the step itself without its tensors, where outputs lie inside; None elsewhere.
        end: where f at the end was evaluated for its polynomial: time and random state.
        ends_at_output: whether the step was cut to end at an output time, so that moving this time changes its size.
    """

    times: tuple[Tensor, ...]
    h: float
    random: RandomState
    random_first: RandomState | None
    calls: list[RandomState]
    notes: Any = None
    carried: bool = False
    inside: slice = field(default_factory=lambda: slice(0, 0))
    shape: Step | None = None
    end: tuple[Tensor, RandomState] | None = None
    ends_at_output: bool = False


class RecordedField(FlatField):
    """The field, watched: when and with which random numbers it was evaluated."""

    def __init__(self, flat: FlatField, device: torch.device) -> None:
        super().__init__(flat.func, flat.layout, flat.args)
        self.device = device
        self.recording = True
        self.calls: list[RandomState] = []
        self.drawn = WeakTensorKeyDictionary()
        self.latest = self.begun = RandomState.capture(device)
        self.time: Tensor | None = None

    def now(self) -> RandomState:
        self.latest = RandomState.capture(self.device, self.latest)
        return self.latest

    @property
    def draws(self) -> bool:
        """Whether any random numbers were drawn before the last evaluation that was watched."""
        return self.latest is not self.begun

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        if not self.recording:
            return super().__call__(t, y)
        before = self.now()
        self.calls.append(before)
        value = super().__call__(t, y)
        if self.draws:
            self.drawn[value] = before
        self.time = t
        return value


class _Recorder(BoundMethod):
    """Stands before the bound method and writes down the trials that become steps."""

    def __init__(self, bound: BoundMethod, field: RecordedField, keep: Callable[[int, State], None]) -> None:
        self.bound, self.field, self.keep = bound, field, keep
        self.records: list[StepRecord] = []

    def trial(
        self, times: Sequence[Tensor], h: StepSize, y: Tensor, derivative: Callable[[], Tensor], with_error: bool = True
    ) -> Trial:
        assert isinstance(h, float)
        random_first: RandomState | None = None
        carried = False

        def first() -> Tensor:
            nonlocal random_first, carried
            calls = self.field.nfe
            f = derivative()
            carried = f is self.bound.end_slope
            if self.field.nfe == calls:
                random_first = self.field.drawn.get(f, self.field.begun)
            return f

        start, state, notes = self.field.now(), (y, *self.bound.memory()), self.bound.notes()
        self.field.calls = []
        trial = self.bound.trial(times, h, y, first, with_error)
        calls = [*self.field.calls] if any(call is not start for call in self.field.calls) else []
        self.pending = StepRecord(tuple(times), h, start, random_first, calls, notes, carried), state
        return trial

    @property
    def cause(self) -> str:  # type: ignore[override]
        return self.bound.cause

    def accepted(self, where: Tensor | None = None) -> None:
        self.bound.accepted(where)
        record, state = self.pending
        self.keep(len(self.records), state)
        self.records.append(record)

    def jumped(self) -> None:
        self.bound.jumped()

    def dense_output(self, step: Step) -> Step:
        return self.bound.dense_output(step)


@dataclass
class Recording:
    """A finished forward solve.

    Attributes:
        ys: states at the output times reached [T', *state].
        last: the last state with the method's memory.
        stops: indices of steps that end at a fixed time which is no output (adaptive steps only).
        draws: whether the field draws random numbers.
    """

    ys: Tensor
    records: list[StepRecord]
    last: State
    integrator: Integrator
    bound: BoundMethod
    field: RecordedField
    stops: list[int]
    draws: bool

    def forget_the_end(self) -> None:
        """Keep of the last state its shape alone."""
        self.last = tuple(x.new_zeros(()).expand_as(x) for x in self.last)
        self.integrator.jump(self.last[0])


@torch.no_grad()
def record(problem: SolveProblem, keep: Callable[[int, State], None]) -> Recording:
    """Solve, and hand the state that every accepted step starts from to `keep(n, state)`."""
    ts, y = problem.ts.detach(), problem.y.detach()
    field = RecordedField(problem.flat, y.device)
    integrator = problem.solver.start(field, ts[0], y, problem.direction)
    assert isinstance(integrator, (AdaptiveIntegrator, FixedIntegrator))
    bound = integrator.bound
    recorder = _Recorder(bound, field, keep)
    integrator.bound = recorder
    fixed_times: set[float] = set()
    if isinstance(integrator, AdaptiveIntegrator):
        fixed_times = {stop.time for stop in integrator.stops.stops}
    stops: list[int] = []
    chunks = [y[None]]
    times: list[float] = ts[1:].tolist()
    for step, inside in integrator.walk(ts[1:], times):
        last = recorder.records[-1]
        if step.end in fixed_times:
            stops.append(len(recorder.records) - 1)
        if inside.start < inside.stop:
            tied = times[inside][-1] == step.end and (step.end == times[-1] or _grid_is_ts(integrator))
            calls = field.nfe
            if problem.ts.requires_grad and len(times[inside]) > tied:
                step.finish()  # how fast an output moves with its time is read off the polynomial
            chunks.append(step.evaluate(ts[1:][inside], times[inside]))
            if field.nfe > calls and field.time is not None:  # symplectic steps evaluate parts of the field alone
                last.end = field.time, field.latest
            last.inside = slice(inside.start + 1, inside.stop + 1)
            last.shape = _without_tensors(step)
            last.ends_at_output = tied
    field.now()
    field.recording = False
    integrator.bound = bound
    ended = (integrator.y, *bound.memory())
    return Recording(torch.cat(chunks), recorder.records, ended, integrator, bound, field, stops, field.draws)


def _grid_is_ts(integrator: Integrator) -> bool:
    return isinstance(integrator, FixedIntegrator) and integrator._grid_is_ts


def _without_tensors(step: Step) -> Step:
    step.y0 = step.y1 = step.y0.new_empty(0)
    step.stages, step.end_derivative = [], None
    return step
