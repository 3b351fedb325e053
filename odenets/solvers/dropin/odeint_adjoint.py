"""`odeint_adjoint`: torchdiffeq's interface to the continuous adjoint."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from ..errors import InputError
from ..gradients import AdjointProblem, adjoint_solve
from ..gradients.adjoint import adjoint_norm, norm_of_leaves
from ..gradients.backward_solver import start_backward
from ..gradients.parameters import distinct, find_parameters
from ..integrator import Integrator
from ..norms import Norm
from ..state import StateLayout
from .odeint import raise_failure, solve_forward, solve_to_event
from .problem import Problem, callbacks_on, read_solver


def odeint_adjoint(
    func: Callable[[Tensor, Any], Any],
    y0: Any,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """Like `odeint`, with gradients by the continuous adjoint: memory does not grow with the number of steps.

    Args:
        func, y0, t, rtol, atol, method, options, event_fn: as in `odeint`. func must be an nn.Module unless
            adjoint_params is given.
        adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options: the same for the backward solve; by default the
            forward's, without its norm. adjoint_options["norm"] is "seminorm" (the parameters' integral does not
            steer the step size) or a function of the tuple (a_t, y, a_y, *a_params).
        adjoint_params: tensors to differentiate with respect to; by default func.parameters().

    Returns:
        as `odeint`.
    """
    if adjoint_params is None and not isinstance(func, nn.Module):
        raise InputError(
            "func must be an instance of nn.Module to specify the adjoint parameters; alternatively they can be "
            "specified explicitly via the `adjoint_params` argument. If there are no parameters then it is allowable "
            "to set `adjoint_params=()`."
        )
    if adjoint_method is not None and adjoint_method != method and options is not None and adjoint_options is None:
        raise InputError(
            "If `adjoint_method != method` then we cannot infer `adjoint_options` from `options`. So as `options` has "
            "been passed then `adjoint_options` must be passed as well."
        )
    problem = Problem.read(func, y0, t, rtol, atol, method, options)
    if adjoint_options is None:
        adjoint_options = {name: value for name, value in (options or {}).items() if name != "norm"}
    backward_options = dict(adjoint_options)
    if adjoint_params is None:
        assert isinstance(func, nn.Module)
        adjoint_params = find_parameters(func)
    params = _wanted(adjoint_params, backward_options)
    backward_options["norm"] = _backward_norm(backward_options.get("norm"), problem)
    solver, _ = read_solver(
        (method if adjoint_method is None else adjoint_method) or "dopri5",
        rtol if adjoint_rtol is None else adjoint_rtol,
        atol if adjoint_atol is None else adjoint_atol,
        dict(backward_options),
    )
    forward_integrator: list[Integrator | None] = [None]

    def forward() -> Any:
        if event_fn is not None:
            return solve_to_event(problem, event_fn)
        ys, forward_integrator[0] = solve_forward(problem)
        if forward_integrator[0] is not None and forward_integrator[0].message:
            raise_failure(problem, forward_integrator[0], problem.layout.unflatten(ys, (len(ys),)))
        return ys

    def start(function: Any, layout: StateLayout, at: Tensor, state: Tensor, norm: Norm) -> Integrator:
        span = float((problem.times[-1] - problem.times[0]).detach())
        started = start_backward(solver, span, function, layout, at, state, norm, -problem.direction)
        if hasattr(started, "callbacks"):
            started.callbacks = callbacks_on(func, layout, "_adjoint")
        return started

    adjoint = AdjointProblem(problem.flat, forward, start, backward_options, t.requires_grad, strict=False)
    result = adjoint_solve(adjoint, problem.times, problem.y0, params)
    event_t, flat = result if event_fn is not None else (None, result)
    ys = problem.layout.unflatten(flat, (len(flat),))
    return ys if event_t is None else (event_t, ys)


def _wanted(params: Iterable[Tensor], options: dict[str, Any]) -> tuple[Tensor, ...]:
    given = tuple(params)
    wanted = distinct(given)
    if not all(p.requires_grad for p in given) and callable(options.get("norm")):
        warnings.warn(
            "An adjoint parameter was passed without requiring gradient. For efficiency this will be excluded from the "
            "adjoint pass, and will not appear as a tensor in the adjoint norm.",
            stacklevel=3,
        )
    return wanted


def _backward_norm(norm: Any, problem: Problem) -> Norm:
    if norm is None or norm == "seminorm":
        return adjoint_norm(problem.norm, seminorm=norm == "seminorm")
    return norm_of_leaves(norm, problem.layout)
