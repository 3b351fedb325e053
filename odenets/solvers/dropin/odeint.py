"""`odeint` with torchdiffeq's arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..compiled import check_mode, solve_compiled, with_compiled_step
from ..errors import InputError, SolveError
from ..gradients.autograd import Autograd
from ..gradients.base import SolveProblem, smallest
from ..integrator import Callbacks, Integrator
from ..solution import Solution
from ..solver import Scipy
from .event import combined_event, find_event
from .problem import Problem


def odeint(
    func: Callable[[Tensor, Any], Any],
    y0: Any,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
    compile: bool | str = False,
) -> Any:
    """Solve dy/dt = func(t, y), y(t[0]) = y0, differentiably through the steps.

    Args:
        func: f(t, y) with t a 0-dim tensor in y's (real) dtype.
        y0: tensor of any shape, or a tuple (list, dict) of tensors.
        t: strictly monotone floating-point times [T], ascending or descending; t[0] is the start.
        rtol, atol: tolerances of the adaptive methods; for a tuple state also one per tensor.
        method: dopri5 (default), dopri8, tsit5, bosh3, fehlberg2, adaptive_heun, euler, midpoint, heun2, heun3,
            ralston, rk4 (the 3/8 rule, as in torchdiffeq), rk4_classic, explicit_adams, implicit_adams, implicit_euler,
            implicit_midpoint, trapezoid, gl4, gl6, radauIIA3, radauIIA5, sdirk2, trbdf2, kvaerno3, kvaerno4,
            kvaerno5 (adaptive), scipy_solver.
        options: adaptive: first_step, min_step, max_step, step_t, jump_t, safety, ifactor, dfactor, max_num_steps,
            norm, dtype. Fixed: step_size, grid_constructor, interp ("linear" or "cubic"), perturb; Adams also
            max_order, max_iters; the implicit methods max_iters. scipy_solver: solver, min_step, max_step.
        event_fn: g(t, y); the solve ends where it (or the first of its elements) crosses zero. Needs len(t) == 2, of
            which only t[0] and the direction count.
        compile: "solve", "step" or "auto", as in `solve`; callbacks and event_fn need False.

    Returns:
        y [T, *y0.shape] (a tuple of those for a tuple state); with event_fn (t_event, y [2, *y0.shape]).

    Raises:
        InputError: wrong input. SolveError: the solve failed; the message names the cause.
    """
    problem = Problem.read(func, y0, t, rtol, atol, method, options)
    if compile:
        compiled = _compiled(problem, compile, event_fn is not None)
        if compiled is not None:
            return compiled
    if event_fn is not None:
        event_t, flat = solve_to_event(problem, event_fn)
        return event_t, problem.layout.unflatten(flat, (2,))
    flat, integrator = solve_forward(problem)
    ys = problem.layout.unflatten(flat, (len(flat),))
    if integrator is not None and integrator.message:
        raise_failure(problem, integrator, ys)
    return ys


def _compiled(problem: Problem, mode: bool | str, has_event: bool) -> Any:
    """The states by a compiled solve; None where it is to be solved eagerly, with compiled steps for mode "step"."""
    check_mode(mode)
    if mode == "step":
        problem.solver = with_compiled_step(problem.solver)
        return None
    if has_event or problem.callbacks != Callbacks() or len(problem.t) == 1:
        if mode != "auto" and len(problem.t) > 1:
            raise InputError(
                f"compile={mode!r} does not take event_fn or callbacks: use compile='auto', 'step' or False."
            )
        return None
    as_problem = SolveProblem(problem.solver, problem.flat, problem.times, problem.y0, problem.direction)
    solution = solve_compiled(as_problem, Autograd(), str(mode))
    if solution is None:
        return None
    ys = problem.layout.unflatten(solution.ys, (len(solution.ys),))
    if solution.message:
        raise SolveError(solution.message, Solution(problem.t, ys, status=solution.status, message=solution.message))
    return ys


def solve_forward(problem: Problem) -> tuple[Tensor, Integrator | None]:
    """Flat states [T', *state] at the problem's times, T' < T if the solve failed, and the integrator."""
    # scipy's results carry no graph: a start that did would promise gradients and give zeros
    y0 = problem.y0.detach() if isinstance(problem.solver, Scipy) else problem.y0
    if len(problem.t) == 1:
        return y0[None].clone(), None
    if not bool(torch.isfinite(problem.times).all()):
        raise InputError("t must be finite.")
    integrator = problem.start(problem.times[0], y0)
    return torch.cat([y0[None], integrator.outputs(problem.times[1:])]), integrator


def raise_failure(problem: Problem, integrator: Integrator, ys: Any) -> None:
    raise SolveError(integrator.message, Solution(problem.t, ys, status=integrator.status, message=integrator.message))


def solve_to_event(problem: Problem, event_fn: Callable[[Tensor, Any], Tensor]) -> tuple[Tensor, Tensor]:
    """Time (0-dim, in t's dtype) and flat states [2, *state] at the start and at the event."""
    if len(problem.t) != 2:
        raise InputError(f"We require len(t) == 2 when in event handling mode, but got len(t)={len(problem.t)}.")
    event = combined_event(event_fn, problem.layout, problem.times[0], problem.y0)
    integrator = problem.start(problem.times[0], problem.y0)
    atol = getattr(problem.solver, "atol", 1e-9)
    event_t, y1 = find_event(integrator, event, smallest(atol))
    return event_t.to(problem.t), torch.stack([problem.y0, y1])
