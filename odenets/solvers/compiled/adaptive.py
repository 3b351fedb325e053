"""An adaptive solve as one compiled program: from a problem to the program's inputs, and from its outcome to a solution."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..constants import constant
from ..errors import Status
from ..gradients.base import SolveProblem
from ..masked import Clock
from ..per_sample import failure_message
from ..solution import Solution, Stats
from ..solver import Adaptive, tolerance
from ..state import StateLayout
from . import capture, methods
from .failure import failure_of_one_clock
from .host_loop import solve_with_host_loop
from .loop import Inputs, LoopSettings, Outcome, solve_adaptive

LOOPS_ON = set() if capture.why_no_loops("cpu") else {"cpu"}  # devices on which a compiled program loops by itself


def unsupported(problem: SolveProblem) -> str:
    """What of an adaptive problem a compiled solve cannot do; empty if it can."""
    solver = problem.solver
    assert isinstance(solver, Adaptive)
    if solver.step_t is not None or solver.jump_t is not None:
        return "step_t or jump_t"
    if solver.time_dtype != torch.float64:
        return "a time_dtype other than float64"
    return methods.unsupported(problem)


def solve_compiled(problem: SolveProblem) -> Solution:
    """The solution with flat states, without gradients.

    Raises:
        CannotCapture: if the field cannot be compiled.
    """
    outcome, settings = run(problem, problem.ts, problem.y)
    return solution_of(problem, settings, outcome)


def run(problem: SolveProblem, ts: Tensor, y: Tensor) -> tuple[Outcome, LoopSettings]:
    """The program's outcome; see `solve_compiled`."""
    outputs = problem.save_at != "end" and ts.shape[-1] > 2
    settings = settings_of(problem, outputs)
    if not outputs and ts.shape[-1] > 2:
        ts = ts[..., :: ts.shape[-1] - 1]
    ts = ts.detach()
    if outputs:  # their number is not compiled in
        torch._dynamo.maybe_mark_dynamic(ts, ts.dim() - 1)
    flat = problem.flat
    last = constant("last", ts.shape[-1] - 1, torch.int64, y.device)
    inputs = Inputs(y.detach(), ts, *numbers_of(problem), last)
    key = ("adaptive", capture.kind_of(flat.func), settings, y.device.type, y.dim())
    with torch.no_grad():
        if y.device.type not in LOOPS_ON:
            return solve_with_host_loop(settings, flat.func, flat.args, inputs, key), settings
        return capture.call(lambda: _program(settings), key, flat.func, flat.args, inputs), settings


def settings_of(problem: SolveProblem, outputs: bool) -> LoopSettings:
    """What is compiled into the problem's loop."""
    solver = problem.solver
    assert isinstance(solver, Adaptive)
    return LoopSettings(
        methods.pure(problem), solver.controller, solver.min_step, solver.max_step, solver.norm, problem.direction,
        solver.per_sample, solver.first_step is not None, _shapeless(problem.flat.layout), outputs,
    )  # fmt: skip


def numbers_of(problem: SolveProblem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The program's inputs rtol, atol, first_step and max_steps."""
    solver, layout, y = problem.solver, problem.flat.layout, problem.y
    assert isinstance(solver, Adaptive)
    return (
        _value("rtol", tolerance("rtol", solver.rtol, layout, y), y),
        _value("atol", tolerance("atol", solver.atol, layout, y), y),
        constant("first_step", float(solver.first_step or 0.0), torch.float64, y.device),
        constant("max_steps", int(solver.max_steps), torch.int64, y.device),
    )


def _program(settings: LoopSettings) -> types.FunctionType:
    def solve(func: Callable[..., Any], args: tuple[Any, ...], inputs: Inputs) -> Outcome:
        return solve_adaptive(settings, func, args, inputs)

    return solve  # type: ignore[return-value]


def _shapeless(layout: StateLayout) -> StateLayout:
    """The same for every shape of a plain tensor."""
    return layout if layout.spec is not None else StateLayout(None, (), (), layout.batch_dims)


def _value(name: str, x: float | Tensor, y: Tensor) -> Tensor:
    return x if isinstance(x, Tensor) else constant(name, x, torch.float64, y.device)


def solution_of(problem: SolveProblem, settings: LoopSettings, outcome: Outcome) -> Solution:
    clock, ts, ys = outcome.clock, problem.ts, outcome.ys
    if len(ys) < ts.shape[-1]:
        ts, ys = ts[..., -1:], ys[-1:]
    if settings.per_sample:
        stats = Stats(accepted=clock.accepted, rejected=clock.rejected)
        _count_work(stats, settings, outcome.iterations.reshape(-1).tolist())
        cause = methods.unsolved(problem, clock) if bool((clock.status == int(Status.NONLINEAR)).any()) else ""
        return Solution(ts, ys, stats, clock.status, failure_message(clock.status, clock.t, cause))
    code, accepted, rejected, *work = torch.cat(
        [torch.stack([clock.status, clock.accepted, clock.rejected]), outcome.iterations.reshape(-1)]
    ).tolist()
    stats = Stats(accepted=accepted, rejected=rejected)
    _count_work(stats, settings, work)
    status = Status(code)
    message = "" if status is Status.SUCCESS else _failure(problem, clock, status, accepted + rejected)
    return Solution(ts, ys, stats, status, message)


def _count_work(stats: Stats, settings: LoopSettings, work: list[int]) -> None:
    """From the iterations of the loop over the steps and, for implicit stages, those inside the steps."""
    method, (trials, *updates) = settings.method, work
    if updates:
        stats.iterations, stats.jacobians, stats.factorisations = updates[0], trials, trials
    inside = updates[0] if updates else trials * (len(method.c) - 1)
    stats.nfe = (1 if settings.given_step else 2) + inside + trials * (not method.fsal)


def _failure(problem: SolveProblem, clock: Clock, status: Status, trials: int) -> str:
    cause, size = "", float(clock.size)
    if status is Status.NONLINEAR:
        assert isinstance(problem.solver, Adaptive)
        cause, size = methods.unsolved(problem, clock), size / problem.solver.controller.factor_min
    return failure_of_one_clock(problem, status, float(clock.t), clock.y, trials, size, cause)
