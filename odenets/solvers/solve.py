"""`solve`: an initial value problem in, a `Solution` out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .dense import DenseOutput
from .errors import InputError, Status
from .field import FlatField
from .fixed import FixedIntegrator
from .gradients import GRADIENTS, AdjointProblem, adjoint_solve
from .gradients.adjoint import adjoint_norm, distinct, find_parameters
from .integrator import Integrator, Step
from .norms import Norm, state_norm
from .per_sample import failure_message, integrate_per_sample
from .solution import Solution, Stats
from .solver import Adams, Adaptive, FixedStep, Scipy, Solver, Torchdiffeq, resolve_solver
from .state import StateLayout


def solve(
    field: Callable[..., Any],
    y0: Any,
    ts: Tensor | Sequence[float | Tensor],
    *,
    solver: Solver | str = "dopri5",
    gradient: str = "autograd",
    args: tuple[Any, ...] = (),
    params: Sequence[Tensor] | None = None,
    save_at: str = "ts",
    dense: bool = False,
    throw: bool = True,
    **settings: Any,
) -> Solution:
    """Solve dy/dt = field(t, y, *args), y(ts[0]) = y0.

    Args:
        field: vector field f(t, y, *args) -> dy/dt, same structure and shapes as y. t is a 0-dim tensor in the
            state's (real) precision; with per-sample steps it is [batch].
        y0: a tensor of any shape, or a tuple, list or dict tree of tensors; real or complex.
        ts: strictly monotone times, ascending or descending: the start, then where the state is wanted. A tensor [T]
            of any dtype or numbers, (t0, t1) in the simplest case; [batch, T] with per-sample steps.
        solver: a name ("tsit5", "rk4", ...) or an `Adaptive`, `FixedStep`, `Adams`, `Scipy`, `Torchdiffeq`.
        gradient: "autograd" (through the steps, exact, memory grows with them) or "adjoint" (a backward solve,
            memory does not grow, as exact as its tolerance).
        args: further arguments of the field.
        params: tensors besides y0 and ts to differentiate with respect to under "adjoint"; by default the field's
            parameters and the tensors in args; needed if the field is no module.
        save_at: "ts", "steps" (every accepted step) or "end" (the last state alone, T = 1).
        dense: also return the solution as a function of t.
        throw: raise when the solve fails; otherwise look at `Solution.status`.
        **settings: replace settings of the solver, e.g. rtol=1e-9, steps=20, per_sample=True.

    Returns:
        Solution with ys [T, *y0.shape].

    Raises:
        InputError (a ValueError): for wrong shapes, times, names or combinations.
        SolveError: if the solve fails and throw is true; its `solution` holds what was computed.
    """
    solver = resolve_solver(solver, **settings)
    per_sample = isinstance(solver, Adaptive) and solver.per_sample
    layout = StateLayout.of(y0, batch_dims=int(per_sample))
    y = layout.flatten(y0)
    ts = check_times(ts, y, per_sample)
    flat = FlatField(field, layout, args)
    _check_combination(solver, gradient, save_at, dense, per_sample, field, y)
    if len(ts) == 1 and ts.dim() == 1:
        return Solution(ts, layout.unflatten(y[None], (1,)))
    direction = _direction(ts)
    if per_sample:
        solution = _solve_per_sample(solver, flat, ts, y, direction)  # type: ignore[arg-type]
    elif gradient == "adjoint":
        solution = _solve_adjoint(solver, flat, ts, y, direction, _parameters(field, args, params))
    else:
        solution = _solve_steps(solver, flat, ts, y, direction, save_at, dense)
    if save_at == "end":
        solution.ts, solution.ys = solution.ts[..., -1:], solution.ys[-1:]
    if throw and not solution.message and isinstance(solution.status, Tensor) and not solution.success:
        solution.message = failure_of_values(solution.ys, solution.ts)
    solution.ys = layout.unflatten(solution.ys, (len(solution.ys),))
    return solution.raise_if_failed() if throw else solution


def check_times(ts: Any, y: Tensor, per_sample: bool = False) -> Tensor:
    """Times as a float64 tensor on y's device. Raises InputError unless [T] (or [batch, T]) and strictly monotone."""
    if isinstance(ts, (tuple, list)) and any(isinstance(t, Tensor) for t in ts):
        ts = torch.stack([torch.as_tensor(t, dtype=torch.float64, device=y.device) for t in ts])
    # straight to float64: Python numbers would pass through float32 on their way
    ts = torch.as_tensor(ts, dtype=torch.float64, device=y.device)
    if not (ts.dim() == 1 or (per_sample and ts.dim() == 2 and len(ts) == len(y))) or ts.shape[-1] == 0:
        wanted = f"[T] or [{len(y)}, T]" if per_sample else "[T]"
        raise InputError(f"ts must be one dimensional, {wanted}, with the start first, got shape {tuple(ts.shape)}.")
    difference = ts.detach().diff(dim=-1)
    if not bool(((difference > 0).all() | (difference < 0).all()) & torch.isfinite(ts).all()):
        raise InputError(
            "ts must be finite and strictly increasing or decreasing, got " + ", ".join(f"{t:g}" for t in ts.reshape(-1)[:6])
        )
    return ts


def _direction(ts: Tensor) -> float:
    first, second = ts.detach().reshape(-1)[:2].tolist()
    return 1.0 if second > first else -1.0


def _check_combination(
    solver: Solver, gradient: str, save_at: str, dense: bool, per_sample: bool, field: Any, y: Tensor
) -> None:
    if gradient not in GRADIENTS:
        raise InputError(f"unknown gradient {gradient!r}: use one of {', '.join(GRADIENTS)}.")
    if save_at not in ("ts", "steps", "end"):
        raise InputError(f"unknown save_at {save_at!r}: use ts, steps or end.")
    if (per_sample or gradient == "adjoint") and (save_at == "steps" or dense):
        raise InputError("every accepted step and dense output need one clock and gradient='autograd'.")
    if per_sample and gradient == "adjoint":
        raise InputError("gradient='adjoint' has one step size for the batch: leave out per_sample, or use autograd.")
    if isinstance(solver, (Scipy, Torchdiffeq)) and (save_at == "steps" or dense):
        raise InputError(f"{type(solver).__name__} does not show its steps: save_at must be ts or end, dense False.")
    if isinstance(solver, Scipy) and gradient == "autograd" and torch.is_grad_enabled():
        wanted = y.requires_grad or (isinstance(field, nn.Module) and any(p.requires_grad for p in field.parameters()))
        if wanted:
            raise InputError("Scipy is not differentiable by autograd: use gradient='adjoint', or torch.no_grad().")


def _parameters(field: Any, args: tuple[Any, ...], params: Sequence[Tensor] | None) -> tuple[Tensor, ...]:
    """Tensors to differentiate with respect to under the adjoint."""
    if params is None:
        function = field.func if isinstance(field, functools.partial) else field
        owner = getattr(function, "__self__", function)  # a module's bound method stands for the module
        if not isinstance(owner, nn.Module):
            raise InputError(
                "gradient='adjoint' cannot see what a plain function depends on: make the field an nn.Module, or pass "
                "params=(...), () if there is nothing to differentiate but y0 and ts."
            )
        bound = (field.args, field.keywords) if isinstance(field, functools.partial) else ()
        params = [*find_parameters(owner)]
        for leaf in torch.utils._pytree.tree_leaves((args, bound)):
            params += find_parameters(leaf) if isinstance(leaf, nn.Module) else [leaf] * isinstance(leaf, Tensor)
    return distinct(params)


def _solve_steps(
    solver: Solver, flat: FlatField, ts: Tensor, y: Tensor, direction: float, save_at: str, dense: bool
) -> Solution:
    integrator = solver.start(flat, ts[0], y, direction)
    steps: list[Step] | None = [] if save_at == "steps" or dense else None
    integrator.recorder = steps
    ys = torch.cat([y[None], integrator.outputs(ts[1:])])
    if save_at == "steps":
        assert steps is not None
        ts = torch.stack([ts[0], *(step.t0 for step in steps[1:]), integrator.t.to(ts.dtype)][: len(steps) + 1])
        ys = torch.stack([y, *(step.y1 for step in steps)])
    solution = Solution(ts, pad_with_nan(ys, len(ts)), _stats(flat, integrator), integrator.status, integrator.message)
    if dense and steps:
        solution.dense = DenseOutput(steps, flat.layout, direction)
    return _judged(solution, integrator)


def _judged(solution: Solution, integrator: Integrator) -> Solution:
    """With a fixed-step solve's status: nobody looked at the values while stepping. Does not wait for the device."""
    if isinstance(integrator, FixedIntegrator):
        finite = torch.isfinite(solution.ys[-1].detach()).all()
        solution.status = torch.where(finite, int(Status.SUCCESS), int(Status.NON_FINITE))
    return solution


def _solve_per_sample(solver: Adaptive, flat: FlatField, ts: Tensor, y: Tensor, direction: float) -> Solution:
    ys, clock = integrate_per_sample(solver.stepper(flat, ts, y, direction), ts, y, solver.first_step)
    stats = Stats(flat.nfe, clock.accepted, clock.rejected)
    return Solution(ts, ys, stats, clock.status, failure_message(clock))


def _solve_adjoint(
    solver: Solver, flat: FlatField, ts: Tensor, y: Tensor, direction: float, params: tuple[Tensor, ...]
) -> Solution:
    integrator = solver.start(flat, ts[0].detach(), y.detach(), direction)
    if isinstance(solver, Torchdiffeq):
        integrator = solver.start(flat, ts[0], y, direction)
        ys = torch.cat([y[None], integrator.outputs_by_adjoint(ts[1:], params)])  # type: ignore[attr-defined]
        return Solution(ts, ys, _stats(flat, integrator))
    stats = Stats()

    def forward() -> Tensor:
        return pad_with_nan(torch.cat([y[None], integrator.outputs(ts[1:].detach())]), len(ts))

    span = float((ts[-1] - ts[0]).detach())
    problem = AdjointProblem(
        flat,
        forward,
        lambda function, layout, t, state, norm: start_backward(solver, span, function, layout, t, state, norm, -direction),
        {"norm": adjoint_norm(state_norm(flat.layout, getattr(solver, "norm", None)))},
        ts.requires_grad,
        stats,
    )
    ys = adjoint_solve(problem, ts, y, params)
    forward_stats = _stats(flat, integrator)
    stats.nfe, stats.accepted, stats.rejected = forward_stats.nfe, forward_stats.accepted, forward_stats.rejected
    return _judged(Solution(ts, ys, stats, integrator.status, integrator.message), integrator)


def start_backward(
    solver: Solver,
    span: float,
    function: Callable[[Tensor, Tensor], Tensor],
    layout: StateLayout,
    t: Tensor,
    state: Tensor,
    norm: Norm,
    direction: float,
) -> Integrator:
    """An integrator like the forward one for the adjoint's augmented state.

    A number of steps becomes their size over the whole `span`, tolerances per leaf become one for each part.
    """
    backward: Any = solver
    if isinstance(solver, (FixedStep, Adams)) and solver.steps is not None:
        backward = dataclasses.replace(solver, steps=None, step_size=abs(span) / solver.steps)
    if isinstance(solver, Adaptive):
        rtol, atol = smallest(solver.rtol), smallest(solver.atol)
        backward = dataclasses.replace(solver, norm=norm, rtol=rtol, atol=atol)
    return backward.start(_Flat(function, layout), t, state, direction)


class _Flat(FlatField):
    """A field whose state already is one vector, with the layout of the tree it stands for."""

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.nfe += 1
        return self.func(t, y)


def smallest(tolerance: Any) -> float:
    parts = tolerance if isinstance(tolerance, (tuple, list)) else [tolerance]
    return min(float(torch.as_tensor(part).min()) for part in parts)


def _stats(flat: FlatField, integrator: Integrator) -> Stats:
    return Stats(flat.nfe, integrator.accepted, integrator.rejected)


def pad_with_nan(ys: Tensor, length: int) -> Tensor:
    """ys [m, ...] extended to [length, ...]: what a failed solve did not reach is NaN."""
    if len(ys) == length:
        return ys
    return torch.cat([ys, ys.new_full((length - len(ys), *ys.shape[1:]), float("nan"))])


def failure_of_values(ys: Tensor, ts: Tensor) -> str:
    """Where saved states [T, ...] first became non-finite, as one line."""
    bad = ~torch.isfinite(ys.detach()).flatten(1).all(1)
    if not bool(bad.any()):
        return ""
    where = float(ts[int(bad.nonzero()[0])]) if len(ts) == len(ys) else float(ts[-1])
    return f"non-finite values in the state at or before t = {where:.6g}: smaller steps or another method may help."
