"""`solve`: an initial value problem in, a `Solution` out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .compiled import check_mode, solve_compiled, with_compiled_step
from .errors import InputError
from .events.event import Event
from .events.segments import solve_by_segments
from .field import FlatField
from .gradients import Gradient, SolveProblem, resolve_gradient
from .implicit.mass_matrix import MassMatrix, check_start
from .methods import ONE_STEP
from .solution import Solution
from .solver import Adaptive, FixedStep, Scipy, Solver, Torchdiffeq, resolve_solver, tolerance
from .state import StateLayout


def solve(
    field: Callable[..., Any],
    y0: Any,
    ts: Tensor | Sequence[float | Tensor],
    *,
    solver: Solver | str = "dopri5",
    gradient: Gradient | str = "autograd",
    args: tuple[Any, ...] = (),
    params: Sequence[Tensor] | None = None,
    save_at: str = "ts",
    dense: bool = False,
    events: Sequence[Event] = (),
    throw: bool = True,
    ensemble: bool | str = False,
    compile: bool | str = False,
    **settings: Any,
) -> Solution:
    """Solve dy/dt = field(t, y, *args), y(ts[0]) = y0.

    Args:
        field: vector field f(t, y, *args) -> dy/dt, same structure and shapes as y. t is a 0-dim tensor in the
            state's (real) precision; with per-sample steps it is [batch]. Or a `SplitField`, or a `MassMatrix`.
        y0: a tensor of any shape, or a tuple, list or dict tree of tensors; real or complex.
        ts: strictly monotone times, ascending or descending: the start, then where the state is wanted. A tensor [T]
            of any dtype or numbers, (t0, t1) in the simplest case; [batch, T] with per-sample steps.
        solver: a name ("tsit5", "rk4", ...) or an `Adaptive`, `FixedStep`, `Adams`, `Scipy`, `Torchdiffeq`.
        gradient: a name or one of odenets.solvers.gradients' classes with its settings: "autograd" (through the
            steps, memory grows with them), "checkpoint", "recursive", "discrete_adjoint" (the same gradient for less
            memory), "reversible" (for reversible methods), "forward" (for few parameters), "adjoint" (a backward solve,
            memory does not grow, as exact as its tolerance), "interpolating_adjoint" (the same along the forward path,
            stiff problems too), or "auto", which chooses among the exact ones.
        args: further arguments of the field.
        params: tensors besides y0 and ts to differentiate with respect to, for every gradient but "autograd"; by
            default the field's parameters and the tensors in args; needed if the field is no module.
        save_at: "ts", "steps" (every accepted step) or "end" (the last state alone, T = 1).
        dense: also return the solution as a function of t.
        events: crossings to record, to stop at or to jump at, see `Event`; they end up in `Solution.events`. With a
            terminal event, states at later times are NaN, and save_at="end" gives the state at the event.
        throw: raise when the solve fails; otherwise look at `Solution.status`.
        ensemble: solve y0 [batch, *state] by one compiled program with a clock per trajectory, for small states and
            large batches; "cpu" or "triton" to name what it is compiled for. See docs/ensembles.md.
        compile: "solve": the whole solve as one compiled program (seconds to compile, once per kind of field, settings
            and number of dimensions); "step": each step of an explicit method, under the eager loop; "auto": "solve"
            where that is possible, else False; "cuda_graph": fixed steps on a GPU, recorded once. A field that cannot
            be captured is named in a warning and solved eagerly. See docs/performance.md.
        **settings: replace settings of the solver, e.g. rtol=1e-9, steps=20, per_sample=True.

    Returns:
        Solution with ys [T, *y0.shape].

    Raises:
        InputError (a ValueError): for wrong shapes, times, names or combinations.
        SolveError: if the solve fails and throw is true; its `solution` holds what was computed.
    """
    if ensemble:
        settings["per_sample"] = True
    solver = resolve_solver(solver, **settings)
    check_mode(compile)
    if ensemble and compile:
        raise InputError("an ensemble is compiled anyway: leave out compile=.")
    if compile == "step":
        solver = with_compiled_step(solver)
    per_sample = isinstance(solver, Adaptive) and solver.per_sample
    layout = StateLayout.of(y0, batch_dims=int(per_sample))
    y = layout.flatten(y0)
    ts, direction = checked_times(ts, y, per_sample)
    flat = FlatField(field.field if isinstance(field, MassMatrix) else field, layout, args)
    if save_at not in ("ts", "steps", "end"):
        raise InputError(f"unknown save_at {save_at!r}: use ts, steps or end.")
    method = resolve_gradient("autograd" if ensemble and gradient == "forward" else gradient)
    alone = ts.shape[-1] == 1
    problem = SolveProblem(solver, flat, ts, y, direction, save_at, dense, params, events)
    if isinstance(field, MassMatrix) and method.name != "autograd":
        raise InputError(f"gradient={method.name!r} cannot differentiate M x' = f: use gradient='autograd'.")
    method.check(problem)
    if events and isinstance(solver, (Scipy, Torchdiffeq)):
        raise InputError(f"{type(solver).__name__} does not show its steps: events need another solver.")
    if events and isinstance(field, MassMatrix):
        raise InputError("events do not take a mass matrix yet: solve for y' where it can be inverted.")
    if isinstance(field, MassMatrix):
        _take_mass(problem, field.mass)
    if alone:
        return Solution(ts, layout.unflatten(y[None], (1,)))
    by_segments = problem.events and not method.takes_events
    solution: Solution | None = None
    if ensemble:
        from .ensemble import solve_ensemble  # imports Triton where there is a GPU

        solution = solve_ensemble(problem, method.name, "auto" if ensemble is True else ensemble)
    elif compile in ("solve", "auto", "cuda_graph"):
        solution = solve_compiled(problem, method, str(compile))
    if solution is None:
        solution = solve_by_segments(method, problem) if by_segments else method.solve(problem)
    if save_at == "end":
        solution.ts, solution.ys = solution.ts[..., -1:], solution.ys[-1:]
    if throw and not solution.message and isinstance(solution.status, Tensor) and not solution.success:
        solution.message = failure_of_values(solution.ys, solution.ts)
    solution.ys = layout.unflatten(solution.ys, (len(solution.ys),))
    return solution.raise_if_failed() if throw else solution


def checked_times(ts: Any, y: Tensor, per_sample: bool = False) -> tuple[Tensor, float]:
    """Times as a float64 tensor on y's device, and their direction, +1.0 or -1.0.

    Raises:
        InputError: unless they are [T] (or [batch, T]) and strictly monotone.
    """
    if isinstance(ts, (tuple, list)) and any(isinstance(t, Tensor) for t in ts):
        ts = torch.stack([torch.as_tensor(t, dtype=torch.float64, device=y.device) for t in ts])
    # straight to float64: Python numbers would pass through float32 on their way
    ts = torch.as_tensor(ts, dtype=torch.float64, device=y.device)
    if not (ts.dim() == 1 or (per_sample and ts.dim() == 2 and len(ts) == len(y))) or ts.shape[-1] == 0:
        wanted = f"[T] or [{len(y)}, T]" if per_sample else "[T]"
        raise InputError(f"ts must be one dimensional, {wanted}, with the start first, got shape {tuple(ts.shape)}.")
    if not ts.numel():  # an empty batch
        return ts, 1.0
    values = ts.detach()
    # differences of finite, monotone times are finite and of one sign; a single time is its own
    differences = values[..., 1:] - values[..., :-1] if ts.shape[-1] > 1 else values.abs() + 1.0
    low, high = float(differences.amin()), float(differences.amax())
    if not (0 < low <= high < math.inf or -math.inf < low <= high < 0):
        raise InputError(
            "ts must be finite and strictly increasing or decreasing, got "
            + ", ".join(f"{t:g}" for t in ts.reshape(-1)[:6])
        )
    return ts, 1.0 if low > 0 else -1.0


def _take_mass(problem: SolveProblem, mass: Tensor) -> None:
    """Solve M x' = f(t, x), if the solver can and the start is consistent; InputError if not."""
    solver, flat = problem.solver, problem.flat
    name = getattr(solver, "method", "")
    known = ONE_STEP.get(name) if isinstance(name, str) else name
    if not (isinstance(solver, (Adaptive, FixedStep)) and getattr(known, "takes_mass", False)):
        able = ", ".join(key for key, method in ONE_STEP.items() if getattr(method, "takes_mass", False))
        raise InputError(f"{type(solver).__name__}({name!r}) cannot solve M x' = f: use one of {able}.")
    if getattr(solver, "interpolation", "dense") == "cubic":
        raise InputError("Hermite interpolation needs x', which M x' = f does not give: use interpolation='dense'.")
    flat.mass = mass.to(problem.y.device, problem.y.dtype)
    tolerances = [getattr(solver, key, default) for key, default in (("rtol", 1e-6), ("atol", 1e-8))]
    rtol, atol = (tolerance(key, value, flat.layout, problem.y) for key, value in zip(("rtol", "atol"), tolerances))
    start = problem.ts.detach()[..., 0].to(problem.y.dtype)
    check_start(flat, flat.mass, start, problem.y, rtol, atol)


def failure_of_values(ys: Tensor, ts: Tensor) -> str:
    """Where saved states [T, ...] first became non-finite, as one line."""
    bad = ~torch.isfinite(ys.detach()).flatten(1).all(1)
    if not bool(bad.any()):
        return ""
    where = float(ts[int(bad.nonzero()[0])]) if len(ts) == len(ys) else float(ts[-1])
    return f"non-finite values in the state at or before t = {where:.6g}: smaller steps or another method may help."
