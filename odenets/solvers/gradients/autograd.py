"""Autograd through the steps: exact for the discretisation, memory grows with the number of steps.

The steps are ordinary tensor operations, so that higher derivatives, forward mode and dense output all work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ..dense import DenseOutput, PerSampleDense
from ..errors import InputError, Status
from ..events.event import EventWatch
from ..events.stepping import watch_steps
from ..integrator import Step
from ..per_sample import accepted_states, failure_message, integrate_per_sample
from ..solution import Solution, Stats
from ..solver import Adaptive, Scipy, Torchdiffeq
from ..step import over_state
from .base import Gradient, SolveProblem, implicit_work, judged, pad_with_nan, stats_of


@dataclass(frozen=True)
class Autograd(Gradient):
    """Every step's graph is kept; N steps of s stages keep N s field evaluations."""

    name: ClassVar[str] = "autograd"
    takes_events: ClassVar[bool] = True

    def check(self, problem: SolveProblem) -> None:
        solver, shows_steps = problem.solver, problem.save_at == "steps" or problem.dense
        if isinstance(solver, (Scipy, Torchdiffeq)) and shows_steps:
            raise InputError(
                f"{type(solver).__name__} does not show its steps: save_at must be ts or end, dense False."
            )
        if isinstance(solver, Scipy) and torch.is_grad_enabled():
            field = problem.flat.func
            trained = isinstance(field, nn.Module) and any(p.requires_grad for p in field.parameters())
            if problem.y.requires_grad or trained:
                raise InputError("Scipy is not differentiable by autograd: use gradient='adjoint', or torch.no_grad().")

    def solve(self, problem: SolveProblem) -> Solution:
        return _solve_per_sample(problem) if problem.per_sample else _solve_steps(problem)


def _solve_steps(problem: SolveProblem) -> Solution:
    ts, y = problem.ts, problem.y
    integrator = problem.start(ts[0], y)
    steps: list[Step] | None = [] if problem.save_at == "steps" or problem.dense else None
    integrator.recorder = steps
    watch = watch_steps(integrator, problem.flat, problem.events) if problem.events else None
    ys = torch.cat([y[None], integrator.outputs(ts[1:])])
    if problem.save_at == "steps":
        assert steps is not None
        ts = torch.stack([ts[0], *(step.t0 for step in steps[1:]), integrator.t.to(ts.dtype)][: len(steps) + 1])
        ys = torch.stack([y, *(step.y1 for step in steps)])
    elif problem.save_at == "end" and integrator.status is Status.EVENT:
        ts, ys = integrator.t[None].to(ts.dtype), integrator.y[None]
    stats = stats_of(problem.flat, integrator)
    solution = Solution(ts, pad_with_nan(ys, len(ts)), stats, integrator.status, integrator.message)
    if problem.dense and steps:
        solution.dense = DenseOutput(steps, problem.flat.layout, problem.direction)
    solution.events = () if watch is None else watch.records()
    return judged(solution, integrator)


def _solve_per_sample(problem: SolveProblem) -> Solution:
    solver = problem.solver
    assert isinstance(solver, Adaptive)
    flat, ts, y = problem.flat, problem.ts, problem.y
    stepper = solver.stepper(flat, ts, y, problem.direction)
    start = ts[..., 0].expand(len(y))
    watch = EventWatch(problem.events, flat, start, y, problem.direction) if problem.events else None
    done = integrate_per_sample(stepper, ts, y, solver.first_step, watch, problem.save_at == "steps" or problem.dense)
    clock = done.clock
    stats = Stats(flat.nfe, clock.accepted, clock.rejected, **implicit_work(stepper.bound))
    solution = Solution(ts, done.ys, stats, clock.status, failure_message(clock.status, clock.t, done.cause))
    if problem.save_at == "steps":
        solution.ts, solution.ys, solution.counts = accepted_states(done.steps)
    elif problem.save_at == "end" and watch is not None:
        ended = clock.status == int(Status.EVENT)
        solution.ts = torch.where(ended, clock.t, ts[..., -1])[:, None]
        solution.ys = torch.where(over_state(ended, y), clock.y, done.ys[-1])[None]
    if problem.dense:
        solution.dense = PerSampleDense(done.steps, stepper.polynomial(ts), flat.layout, problem.direction)
    solution.events = () if watch is None else watch.records()
    return solution
