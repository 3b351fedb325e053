"""An adaptive solve as one compiled program: from a problem to the program's inputs, and from its outcome to a solution."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import Status
from ..gradients.base import SolveProblem
from ..masked import Clock
from ..per_sample import failure_message
from ..solution import Solution, Stats
from ..solver import Adaptive, method_of, tolerance
from ..state import StateLayout
from ..tableau import ButcherTableau
from . import capture
from .failure import failure_of_one_clock
from .host_loop import solve_with_host_loop
from .loop import Inputs, LoopSettings, Outcome, solve_adaptive

LOOPS_ON = {"cpu"}  # devices on which a compiled program loops by itself


def unsupported(problem: SolveProblem) -> str:
    """What of an adaptive problem a compiled solve cannot do; empty if it can."""
    solver = problem.solver
    assert isinstance(solver, Adaptive)
    if not isinstance(_method(solver), ButcherTableau):
        return f"method {getattr(solver.method, 'name', solver.method)!r}, only explicit Runge-Kutta methods"
    if solver.step_t is not None or solver.jump_t is not None:
        return "step_t or jump_t"
    if solver.time_dtype != torch.float64:
        return "a time_dtype other than float64"
    return ""


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
    inputs = Inputs(y.detach(), ts, *numbers_of(problem), torch.tensor(ts.shape[-1] - 1, device=y.device))
    key = ("adaptive", capture.kind_of(flat.func), settings, y.device.type, y.dim())
    with torch.no_grad():
        if y.device.type not in LOOPS_ON:
            return solve_with_host_loop(settings, flat.func, flat.args, inputs, key), settings
        return capture.call(lambda: _program(settings), key, flat.func, flat.args, inputs), settings


def settings_of(problem: SolveProblem, outputs: bool) -> LoopSettings:
    """What is compiled into the problem's loop."""
    solver = problem.solver
    assert isinstance(solver, Adaptive)
    tableau = _method(solver)
    assert isinstance(tableau, ButcherTableau)
    return LoopSettings(
        tableau, solver.controller, solver.min_step, solver.max_step, solver.norm, problem.direction, solver.per_sample,
        solver.first_step is not None, _shapeless(problem.flat.layout), outputs,
    )  # fmt: skip


def numbers_of(problem: SolveProblem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The program's inputs rtol, atol, first_step and max_steps."""
    solver, layout, y = problem.solver, problem.flat.layout, problem.y
    assert isinstance(solver, Adaptive)
    return (
        _value(tolerance("rtol", solver.rtol, layout, y), y),
        _value(tolerance("atol", solver.atol, layout, y), y),
        torch.tensor(solver.first_step or 0.0, dtype=torch.float64, device=y.device),
        torch.tensor(solver.max_steps, device=y.device),
    )


def _program(settings: LoopSettings) -> types.FunctionType:
    def solve(func: Callable[..., Any], args: tuple[Any, ...], inputs: Inputs) -> Outcome:
        return solve_adaptive(settings, func, args, inputs)

    return solve  # type: ignore[return-value]


def _shapeless(layout: StateLayout) -> StateLayout:
    """The same for every shape of a plain tensor."""
    return layout if layout.spec is not None else StateLayout(None, (), (), layout.batch_dims)


def _method(solver: Adaptive) -> Any:
    from ..solver import WALKERS

    return None if solver.method in WALKERS else method_of(solver.method)


def _value(x: float | Tensor, y: Tensor) -> Tensor:
    return x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64, device=y.device)


def solution_of(problem: SolveProblem, settings: LoopSettings, outcome: Outcome) -> Solution:
    clock, ts = outcome.clock, problem.ts
    ys = outcome.ys
    per_step = settings.tableau.stages - 1 + (not settings.tableau.fsal)
    before = 1 if settings.given_step else 2
    if len(ys) < ts.shape[-1]:
        ts, ys = ts[..., -1:], ys[-1:]
    if settings.per_sample:
        nfe = before + per_step * int(outcome.iterations)
        message = "" if bool((clock.status == 0).all()) else failure_message(clock.status, clock.t)
        return Solution(ts, ys, Stats(nfe, clock.accepted, clock.rejected), clock.status, message)
    code, accepted, rejected, iterations = torch.stack(
        [clock.status, clock.accepted, clock.rejected, outcome.iterations]
    ).tolist()
    status = Status(code)
    message = "" if status is Status.SUCCESS else _failure(problem, clock, status, accepted + rejected)
    return Solution(ts, ys, Stats(before + per_step * iterations, accepted, rejected), status, message)


def _failure(problem: SolveProblem, clock: Clock, status: Status, trials: int) -> str:
    return failure_of_one_clock(problem, status, float(clock.t), clock.y, trials, float(clock.size))
