"""Events under gradient methods that hide their steps: the solve goes from event to event.

The events are located first, by a solve without gradients. Then every piece between two jumps is a solve of its own by
the gradient method, and at each event one Newton step corrects time and state to that solve and carries their
derivatives (implicit function theorem): with the rate c' = g_t + g_y f along the solution, t moves by -g / c' and y by f
times that.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError, Status
from ..solution import Solution, Stats
from ..solver import Adams, FixedStep, Solver
from .event import Event, EventWatch
from .roots import rate_along, shift
from .stepping import watch_steps

if TYPE_CHECKING:
    from ..gradients import Gradient, SolveProblem


class _Crossing(NamedTuple):
    """Where an event crossed zero, and whether it is one at which the solution jumps or ends."""

    time: float
    event: int
    acts: bool


def solve_by_segments(method: Gradient, problem: SolveProblem) -> Solution:
    """A solve with one clock and events under any gradient method.

    `Solution.stats` counts all forward solves, and no backward ones. First derivatives only.
    """
    problem = dataclasses.replace(problem, solver=_with_step_size(problem))
    flat, ts, direction = problem.flat, problem.ts, problem.direction
    with torch.no_grad():
        integrator = problem.start(ts[0].detach(), problem.y.detach())
        watch = watch_steps(integrator, flat, problem.events)
        located = torch.cat([problem.y[None], integrator.outputs(ts[1:].detach())])
    if not integrator.status.successful:
        stats = Stats(flat.nfe, integrator.accepted, integrator.rejected)
        return Solution(
            ts, _padded(located, len(ts)), stats, integrator.status, integrator.message, events=watch.records()
        )
    stats = Stats()
    t, y, states, times = ts[0], problem.y, [problem.y], ts.tolist()
    status, message = integrator.status, ""
    pieces = _pieces(watch)
    if status is Status.EVENT:
        pieces.pop()  # nothing comes after it
    watch.found = [[] for _ in problem.events]
    for n, piece in enumerate(pieces):
        # events that act together do so at the time of the first of them
        first = min((c for c in piece if c.acts), key=lambda c: c.time * direction, default=None)
        end = times[-1] if first is None else first.time
        piece = [c._replace(time=min(c.time, end, key=lambda time: time * direction)) for c in piece]
        outputs = [i for i in range(len(states), len(times)) if (times[i] - end) * direction <= 0]
        wanted = {crossing.time: ts.new_tensor(crossing.time) for crossing in piece}
        wanted.update({times[i]: ts[i] for i in outputs})
        start = float(t.detach())
        ahead = sorted((time for time in wanted if (time - start) * direction > 0), key=lambda time: time * direction)
        at: dict[float, tuple[Tensor, Tensor]] = {}
        if ahead:
            segment = torch.stack([t, *(wanted[time] for time in ahead)])
            done = method.solve(dataclasses.replace(problem, ts=segment, y=y, save_at="ts", events=()))
            stats.accepted, stats.rejected = stats.accepted + done.stats.accepted, stats.rejected + done.stats.rejected
            if not done.success:
                status, message = done.status, done.message  # type: ignore[assignment]
                break
            at = {time: (wanted[time], state) for time, state in zip(ahead, done.ys[1:])}
        states += [at.get(times[i], (t, y))[1] for i in outputs]
        for crossing in piece:
            moment = _corrected(watch, watch.events[crossing.event], *at.get(crossing.time, (t, y)))
            index = torch.tensor(len(watch.found[crossing.event]))
            watch.found[crossing.event].append((torch.tensor(True), index, *moment))
            if first is not None and (crossing.event, crossing.acts) == (first.event, True):
                at_end = moment
        if first is not None:
            t, y = at_end
        if n < len(pieces) - 1:
            for event in (watch.events[crossing.event] for crossing in piece if crossing.acts):
                y = watch.jumped(event, t, y)
    stats.nfe = flat.nfe
    ys = _padded(torch.stack(states), len(ts))
    if problem.save_at == "end" and status is Status.EVENT:
        ts, ys = t[None], y[None]
    return Solution(ts, ys, stats, status, message, events=watch.records())


def _with_step_size(problem: SolveProblem) -> Solver:
    """The solver with steps of the same size in all pieces."""
    solver = problem.solver
    if not isinstance(solver, (FixedStep, Adams)):
        return solver
    if solver.grid_constructor is not None:
        raise InputError("events and a grid_constructor need gradient='autograd': or give step_size instead.")
    if solver.steps is None:
        return solver
    span = float((problem.ts[-1] - problem.ts[0]).detach())
    return dataclasses.replace(solver, steps=None, step_size=abs(span) / solver.steps)


def _pieces(watch: EventWatch) -> list[list[_Crossing]]:
    """The crossings, parted after each step at which the solution jumped or ended."""
    ahead = [iter(enumerate(record.ts.tolist(), 1)) for record in watch.records()]
    pieces: list[list[_Crossing]] = [[]]
    for happened in watch.together:
        crossings = []
        for e in (e for e, where in happened if bool(where)):
            event, (count, time) = watch.events[e], next(ahead[e])
            acts = event.on_event is not None or 0 < event.terminal <= count
            crossings.append(_Crossing(time, e, acts))
        pieces[-1] += crossings
        if any(crossing.acts for crossing in crossings):
            pieces.append([])
    return pieces


def _corrected(watch: EventWatch, event: Event, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Time and state of a crossing after one Newton step from the located time, with their derivatives."""
    with torch.no_grad():
        slope = watch.flat(t.to(watch.time_dtype), y)
    rate = rate_along(partial(watch.value, event), t, y, slope)
    if rate is None:  # a switch: its time has no derivative
        return t.detach(), y
    g = watch.value(event, t, y)
    change = shift(g, rate) - torch.where(g == 0, 0.0, g / rate).detach()
    return t + change.to(t.dtype), y + slope * change.to(y.dtype)


def _padded(ys: Tensor, length: int) -> Tensor:
    return torch.cat([ys, ys.new_full((length - len(ys), *ys.shape[1:]), torch.nan)])
