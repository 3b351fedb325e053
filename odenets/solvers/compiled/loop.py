"""Adaptive solves as loops that a compiler takes whole: `masked.Stepper` inside while_loop, outputs written on the way.

Three loops over the same trial step, so that a compiled solve takes the steps of an eager one:

- `to_the_end`: only the last state;
- `at_times`: one clock, a loop over the output times around one that steps until the next of them has been passed;
- `at_times_per_sample`: a clock per sample; every iteration is a trial step for all samples and writes at most one output
  of each. A sample with more of them inside one step takes the same step again in the next iteration, until all are
  written: nothing of a step has to be kept, and no sample waits for another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from ..controller import PIDController
from ..field import FlatField
from ..initial_step import initial_step
from ..masked import RUNNING, Clock, MaskedStep, Stepper
from ..norms import rms_norm_per_sample, state_norm
from ..one_step import Method
from ..state import StateLayout
from ..step import over_state
from ..tableau import ButcherTableau, Row


@dataclass(frozen=True)
class LoopSettings:
    """What is compiled into a solve; everything else is an input and may change from call to call.

    Attributes:
        method: an explicit tableau, or another method in the form that can be compiled, see `methods`.
        controller, min_step, max_step: as in `Adaptive`.
        norm: of the user's state, None for the default.
        direction: +1.0 or -1.0.
        per_sample: a clock for every sample.
        given_step: whether the first size is given.
        layout: of the state.
        outputs: whether states at times before the last are wanted.
        dense: rows [stages][degree] of the method's dense output.
    """

    method: Method
    controller: PIDController
    min_step: float
    max_step: float
    norm: Callable[[Any], Any] | None
    direction: float
    per_sample: bool
    given_step: bool
    layout: StateLayout
    outputs: bool
    dense: tuple[Row, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dense", tuple(map(tuple, self.method.dense.tolist())))

    def __hash__(self) -> int:  # it is part of keys at every solve: not of all its parts
        return hash((self.method, self.direction, self.per_sample, self.outputs))

    @property
    def tableau(self) -> ButcherTableau:
        """An explicit method, the only kind that compiled gradients take."""
        assert isinstance(self.method, ButcherTableau)
        return self.method


class Inputs(NamedTuple):
    """What a compiled solve is called with.

    Attributes:
        y0: flat state [*state]; ts: output times, the start first, [T] or [batch, T].
        rtol, atol: tensors that broadcast against the state.
        first_step: [] (not looked at unless it is given); max_steps, last: int64 []; `last` is T - 1.
    """

    y0: Tensor
    ts: Tensor
    rtol: Tensor
    atol: Tensor
    first_step: Tensor
    max_steps: Tensor
    last: Tensor


class Outcome(NamedTuple):
    """States [T, *state] at the output times (NaN where not reached), the clock at the end and the iterations: [], or [2]
    with the updates of the iterations inside the steps beside those of the loop.
    """

    ys: Tensor
    clock: Clock
    iterations: Tensor


def solve_adaptive(settings: LoopSettings, func: Callable[..., Any], args: tuple[Any, ...], inputs: Inputs) -> Outcome:
    """The whole solve of `func(t, y, *args)`, pure."""
    field = FlatField(func, settings.layout, args).evaluate
    stepper, clock = start(settings, field, inputs)
    if not settings.outputs:
        return to_the_end(stepper, clock, inputs.y0)
    if settings.per_sample:
        return at_times_per_sample(stepper, settings.dense, clock, inputs)
    return at_times(stepper, settings.dense, clock, inputs)


def start(settings: LoopSettings, field, inputs: Inputs) -> tuple[Stepper, Clock]:
    y0, ts, method = inputs.y0, inputs.ts, settings.method
    time_dtype = torch.empty((), dtype=y0.dtype).abs().dtype
    tolerance_dtype = torch.promote_types(time_dtype, torch.float32)
    rtol, atol = _fresh(inputs.rtol.to(tolerance_dtype), inputs.atol.to(tolerance_dtype))  # they may be one tensor
    norm = rms_norm_per_sample if settings.per_sample else state_norm(settings.layout, settings.norm)
    nodes = torch.tensor(method.c, dtype=ts.dtype, device=ts.device)
    stepper = Stepper(
        field, method, nodes, ts[..., -1].clone(), settings.direction, rtol, atol, norm, settings.controller,
        settings.min_step, settings.max_step, inputs.max_steps, settings.per_sample,
    )  # fmt: skip
    t = ts[..., 0].expand(len(y0)).clone() if settings.per_sample else ts[0].clone()
    f = field(t.to(time_dtype), y0)
    if settings.given_step:
        size = inputs.first_step.expand(t.shape).clone()
    else:
        size = initial_step(
            field, t, y0, f, settings.direction, method.control_order - 1, rtol, atol, norm, stepper.limit
        )
    return stepper, stepper.start(t, size, y0.clone(), f)


def to_the_end(stepper: Stepper, clock: Clock, y0: Tensor) -> Outcome:
    def running(iterations: Tensor, *clock: Tensor) -> Tensor:
        return (Clock(*clock).status == RUNNING).any()

    def advance(iterations: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        clock, step = stepper(Clock(*parts))
        return _fresh(_counted(iterations, step), *clock)

    iterations, *found = while_loop(running, advance, _fresh(_none_yet(stepper, clock), *clock))
    clock = Clock(*found)
    return Outcome(torch.stack([y0, _where_arrived(clock.status == 0, clock.y)]), clock, iterations)


def at_times(stepper: Stepper, dense: tuple[Row, ...], clock: Clock, inputs: Inputs) -> Outcome:
    # the last step's start, size, state and stages are carried along: an output may lie in a step taken for another
    y0, ts, last = inputs.y0, inputs.ts, inputs.last
    parts = len(clock)
    start = [clock.t, clock.t, y0, *[torch.zeros_like(y0)] * len(dense)]
    ys = torch.cat([y0[None], y0.new_full((ts.shape[0] - 1, *y0.shape), float("nan"))])
    coefficients = torch.tensor(dense, dtype=ts.dtype, device=ts.device)

    in_place = _writes_in_place(stepper)

    def more_outputs(index: Tensor, iterations: Tensor, *carry: Tensor) -> Tensor:
        return (index <= last) & (Clock(*carry[:parts]).status <= 0)  # running or arrived

    def until_passed(index: Tensor, *carry: Tensor) -> tuple[Tensor, ...]:
        target = ts.index_select(0, index[None])[0]
        written: list[Tensor] = []
        if not in_place:
            *carry, outputs = carry  # type: ignore[assignment]

        def before_target(iterations: Tensor, *carry: Tensor) -> Tensor:
            clock = Clock(*carry[:parts])
            return (clock.status == RUNNING) & ((target - clock.t) * stepper.direction > 0)

        def advance(iterations: Tensor, *carry: Tensor) -> tuple[Tensor, ...]:
            clock, step = stepper(Clock(*carry[:parts]))
            return _fresh(_counted(iterations, step), *clock, step.t0, step.h, step.y0, *step.stages[: len(dense)])

        carry = while_loop(before_target, advance, tuple(carry))
        clock = Clock(*carry[1 : 1 + parts])
        t0, h, y, *stages = carry[1 + parts :]
        theta = (target - t0) / torch.where(h == 0, 1.0, h)
        powers = torch.stack([theta ** (j + 1) for j in range(len(dense[0]))])
        weights = ((coefficients * powers).sum(1) * h).to(y0.dtype)
        for i, stage in enumerate(stages):
            y = y + weights[i] * stage
        y = torch.where(target == clock.t, clock.y, y)
        state = _where_arrived((target - clock.t) * stepper.direction <= 0, y)[None]
        if in_place:
            ys.index_put_((index[None],), state)
        else:
            written = [outputs.index_put((index[None],), state)]
        return _fresh(index + 1, *carry, *written)

    begin = _fresh(_zero(clock) + 1, _none_yet(stepper, clock), *clock, *start, *([] if in_place else [ys]))
    _, iterations, *found = while_loop(more_outputs, until_passed, begin)
    return Outcome(ys if in_place else found[-1], Clock(*found[:parts]), iterations)


def at_times_per_sample(stepper: Stepper, dense: tuple[Row, ...], clock: Clock, inputs: Inputs) -> Outcome:
    y0, last = inputs.y0, inputs.last
    batch, count, parts = len(y0), inputs.ts.shape[-1], len(clock)
    times = inputs.ts.expand(batch, count).contiguous()
    samples = torch.arange(batch, device=y0.device)
    # one row more than there are outputs: what is not to be written goes there
    ys = torch.cat([y0[None], y0.new_full((count, *y0.shape), float("nan"))])

    in_place = _writes_in_place(stepper)

    def running(iterations: Tensor, passed: Tensor, *rest: Tensor) -> Tensor:
        return (Clock(*rest[:parts]).status == RUNNING).any()

    def advance(iterations: Tensor, passed: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        before = Clock(*rest[:parts])
        clock, step = stepper(before)
        at = _at(times, torch.minimum(passed, last))
        inside = (passed <= last) & ((at - step.t1) * stepper.direction <= 0)
        where, state = (torch.where(inside, passed, last + 1), samples), within(dense, step, at)
        written = [] if in_place else [rest[parts].index_put(where, state)]
        if in_place:
            ys.index_put_(where, state)
        passed = passed + inside
        ahead = _at(times, torch.minimum(passed, last))
        again = (passed <= last) & ((ahead - step.t1) * stepper.direction <= 0)
        held = [torch.where(over_state(again, new), old, new) for old, new in zip(before, clock)]
        return _fresh(_counted(iterations, step), passed, *held, *written)

    first = torch.ones(batch, dtype=torch.int64, device=y0.device)
    begin = _fresh(_none_yet(stepper, clock), first, *clock, *([] if in_place else [ys]))
    iterations, _, *found = while_loop(running, advance, begin)
    return Outcome((ys if in_place else found[parts])[:-1], Clock(*found[:parts]), iterations)


def _at(times: Tensor, index: Tensor) -> Tensor:
    """Every sample's own of its times: times [batch, T], index [batch] -> [batch]."""
    return times.gather(1, index[:, None])[:, 0]


def within(dense: tuple[Row, ...], step: MaskedStep, at: Tensor) -> Tensor:
    """The step's polynomial at one time of each sample [batch]: states [batch, ...]."""
    theta = (at - step.t0) / torch.where(step.h == 0, 1.0, step.h)
    theta = over_state(theta, step.y0).to(step.y0.dtype)
    state = torch.zeros_like(step.y0)
    for column in reversed(list(zip(*dense))):  # Horner in theta
        terms = [weight * stage for weight, stage in zip(column, step.stages) if weight]
        state = (state + sum(terms)) * theta
    state = step.y0 + over_state(step.h, step.y0).to(step.y0.dtype) * state
    return torch.where(over_state(at == step.t1, state), step.y1, state)


def _where_arrived(arrived: Tensor, state: Tensor) -> Tensor:
    return torch.where(over_state(arrived, state), state, float("nan"))


def _zero(clock: Clock) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device=clock.t.device)


def _writes_in_place(stepper: Stepper) -> bool:
    """Where a body takes derivatives, nothing in it may be written to: outputs are then carried along, copied each time."""
    return isinstance(stepper.method, ButcherTableau)


def _none_yet(stepper: Stepper, clock: Clock) -> Tensor:
    return _zero(clock).expand(2).clone() if stepper.bound.iterates else _zero(clock)


def _counted(iterations: Tensor, step: MaskedStep) -> Tensor:
    return iterations + (1 if step.updates is None else torch.stack([torch.ones_like(step.updates), step.updates]))


def _fresh(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Copies: a loop's results must not share memory with what it was given."""
    return tuple(x.clone() for x in tensors)
