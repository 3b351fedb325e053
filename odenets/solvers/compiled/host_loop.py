"""Adaptive solves whose loop stays in Python: a compiled trial step, called until everyone has arrived.

For devices with a queue of their own. The host never waits for a step: it looks at whether anyone is still running once
in `LOOK_EVERY` steps, and steps after the end change nothing. Outputs are written as in `loop.at_times_per_sample`, with
one clock too: at most one of them in a step, which is taken again where it holds more.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..field import FlatField
from ..masked import RUNNING, Clock
from ..step import over_state
from . import capture
from .loop import Inputs, LoopSettings, Outcome, start, within

LOOK_EVERY = 16


class Progress(NamedTuple):
    """Where a solve is.

    Attributes:
        clock: see `masked.Clock`.
        passed: the next output of every clock [clocks]; ys: states at the times [T + 1, clocks, *state], written in place.
        iterations: trial steps in which someone was running.
    """

    clock: Clock
    passed: Tensor
    ys: Tensor
    iterations: Tensor


def solve_with_host_loop(
    settings: LoopSettings, func: Callable[..., Any], args: tuple[Any, ...], inputs: Inputs, key: Any
) -> Outcome:
    """As `loop.solve_adaptive`, without recorded steps.

    Raises:
        CannotCapture: if the field cannot be compiled.
    """
    given = (func, args, inputs)
    progress: Progress = capture.call(lambda: _beginning(settings), (*key, "begin"), *given, loops=False)
    # what is written in place must not be a view that the compiler made
    progress = progress._replace(ys=progress.ys.clone())
    while True:
        for _ in range(LOOK_EVERY):
            progress = capture.call(lambda: _step(settings), (*key, "step"), *given, progress, loops=False)
        if not bool((progress.clock.status == RUNNING).any()):
            break
    ys = progress.ys[:-1]
    if not settings.outputs:
        arrived = over_state(progress.clock.status == 0, progress.clock.y)
        end = torch.where(arrived, progress.clock.y, float("nan"))
        return Outcome(torch.stack([inputs.y0, end]), progress.clock, progress.iterations)
    return Outcome(ys if settings.per_sample else ys[:, 0], progress.clock, progress.iterations)


def begin(settings: LoopSettings, func: Callable[..., Any], args: tuple[Any, ...], inputs: Inputs) -> Progress:
    """At the start, pure."""
    y0 = inputs.y0
    _, clock = start(settings, FlatField(func, settings.layout, args).evaluate, inputs)
    first = y0 if settings.per_sample else y0[None]
    times = inputs.ts.shape[-1] if settings.outputs else 0
    # one row more than there are outputs: what is not to be written goes there
    ys = torch.cat([first[None], y0.new_full((times, *first.shape), float("nan"))])
    passed = torch.ones(len(first), dtype=torch.int64, device=y0.device)
    return Progress(Clock(*(x.clone() for x in clock)), passed, ys, torch.zeros_like(passed[0]))


def advance(
    settings: LoopSettings, func: Callable[..., Any], args: tuple[Any, ...], inputs: Inputs, progress: Progress
) -> Progress:
    """One trial step of all clocks; writes into `progress.ys`."""
    before, passed, ys, iterations = progress
    # of the start only the stepper is looked at: the compiler leaves out the rest
    stepper, _ = start(settings, FlatField(func, settings.layout, args).evaluate, inputs)
    clock, step = stepper(before)
    iterations = iterations + (before.status == RUNNING).any()
    if not settings.outputs:
        return Progress(clock, passed, ys, iterations)
    last, direction = inputs.last, stepper.direction
    times = inputs.ts.expand(len(passed), inputs.ts.shape[-1])
    reached = step.t1.reshape(-1)
    at = _at(times, torch.minimum(passed, last))
    inside = (passed <= last) & ((at - reached) * direction <= 0)
    state = within(settings.dense, step, at.reshape(step.t1.shape)).reshape(ys.shape[1:])
    samples = torch.arange(len(passed), device=passed.device)
    ys.index_put_((torch.where(inside, passed, last + 1), samples), state)
    passed = passed + inside
    ahead = _at(times, torch.minimum(passed, last))
    again = ((passed <= last) & ((ahead - reached) * direction <= 0)).reshape(step.t1.shape)
    held = [torch.where(over_state(again, new), old, new) for old, new in zip(before, clock)]
    return Progress(Clock(*held), passed, ys, iterations)


def _at(times: Tensor, index: Tensor) -> Tensor:
    return times.gather(1, index[:, None])[:, 0]


def _beginning(settings: LoopSettings) -> types.FunctionType:
    def first(func: Callable[..., Any], args: tuple[Any, ...], inputs: Inputs) -> Progress:
        return begin(settings, func, args, inputs)

    return first  # type: ignore[return-value]


def _step(settings: LoopSettings) -> types.FunctionType:
    def step(func: Callable[..., Any], args: tuple[Any, ...], inputs: Inputs, progress: Progress) -> Progress:
        return advance(settings, func, args, inputs, progress)

    return step  # type: ignore[return-value]
