"""Which adaptive methods a compiled solve takes, in the form that it takes them."""

from __future__ import annotations

import torch

from ..errors import Status
from ..gradients.base import SolveProblem
from ..implicit.linear import Linearisation
from ..implicit.newton import Newton
from ..implicit.rosenbrock import RosenbrockTableau
from ..implicit.runge_kutta import ImplicitRungeKutta
from ..masked import Clock
from ..norms import rms_norm_per_sample, state_norm
from ..one_step import Accuracy, Method, bind
from ..solver import WALKERS, Adaptive, tolerance, with_nonlinear
from ..step import over_state, stage_times
from ..tableau import ButcherTableau
from . import capture
from .newton import PureNewton
from .rosenbrock import PureRosenbrock


def unsupported(problem: SolveProblem) -> str:
    """What of a problem's method a compiled solve cannot do; empty if it can."""
    solver = problem.solver
    assert isinstance(solver, Adaptive)
    name = getattr(solver.method, "name", solver.method)
    if solver.method in WALKERS:
        return f"method {name!r}"
    method = with_nonlinear(solver)
    if isinstance(method, ButcherTableau):
        return ""
    if isinstance(method, ImplicitRungeKutta):
        if len(method.blocks) == 1 or not method.fsal:
            return f"method {name!r}, whose stages are solved together"
        if type(method.nonlinear) is not Newton:
            return f"nonlinear={type(method.nonlinear).__name__}, only Newton"
        size = problem.y.shape[int(solver.per_sample) :].numel()
        if solver.per_sample and size > method.nonlinear.dense_limit:
            return f"implicit systems of {size} elements, more than dense_limit={method.nonlinear.dense_limit}"
    elif not isinstance(method, RosenbrockTableau):
        return f"method {name!r}, only explicit and diagonally implicit Runge-Kutta and Rosenbrock methods"
    if where := capture.why_no_loops(problem.y.device.type):
        return f"implicit methods {where}"
    if problem.y.dtype not in (torch.float32, torch.float64):
        return f"implicit methods in {problem.y.dtype}"
    return ""


def pure(problem: SolveProblem) -> Method:
    """The method of a supported problem as tensor code without side effects."""
    assert isinstance(problem.solver, Adaptive)
    method = with_nonlinear(problem.solver)
    if isinstance(method, RosenbrockTableau):
        return PureRosenbrock(method, systems(problem, None))
    if isinstance(method, ImplicitRungeKutta):
        return PureNewton.of(method, systems(problem, method.nonlinear.batch_dims))
    return method


def systems(problem: SolveProblem, given: int | None) -> int:
    """How many leading dimensions of the state number separate systems; with one clock and unless given, a state
    [B, ...] is probed, like in an eager solve."""
    if problem.per_sample:
        return 1
    if given is not None:
        return given
    start = problem.ts.detach()[0].to(problem.y.dtype)
    return int(Linearisation(problem.flat).independent(start, problem.y.detach()))


def unsolved(problem: SolveProblem, clock: Clock) -> str:
    """Why the last trials of a solve were not solved: the eager method takes a step of that size once more."""
    solver, y, t = problem.solver, clock.y, clock.t
    assert isinstance(solver, Adaptive)
    rtol, atol = (tolerance(name, getattr(solver, name), problem.flat.layout, y) for name in ("rtol", "atol"))
    norm = rms_norm_per_sample if problem.per_sample else state_norm(problem.flat.layout, solver.norm)
    method = with_nonlinear(solver)
    bound = bind(method, problem.flat, Accuracy(rtol, atol, norm, problem.per_sample))
    size = clock.size / solver.controller.factor_min  # what could not be computed was shrunk as far as allowed
    h = torch.where(clock.status == int(Status.NONLINEAR), size, 0.0) * problem.direction
    times = stage_times(torch.tensor(method.c, dtype=t.dtype, device=t.device), t, h, y.dtype)
    with torch.no_grad():
        bound.trial(times, over_state(h, y).to(y.dtype), y, lambda: clock.f)
    return bound.cause or "its equations were not solved"
