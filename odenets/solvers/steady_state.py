"""Steady states f(t, y) = 0: where a solve settles, or by Newton's method; gradients by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .errors import InputError, SolveError, Status
from .field import FlatField
from .implicit.linear import Linearisation, ShiftedLU, gmres
from .implicit.phantom import Phantom
from .once import differentiable_once
from .solution import Stats
from .solver import Solver, resolve_solver
from .state import StateLayout

_DENSE = 512  # unknowns up to which the gradient's system is solved by its matrix


@dataclass
class SteadyState:
    """What was found.

    Attributes:
        y: the state, like y0.
        residual: root mean square of f there, of every system [batch] or [].
        stats: evaluations, and steps or Newton iterations.
        status, message: how it ended; SUCCESS where every residual is below the tolerance.
    """

    y: Any
    residual: Tensor
    stats: Stats = field(default_factory=Stats)
    status: Status = Status.SUCCESS
    message: str = ""


def steady_state(
    field: Callable[..., Any],
    y0: Any,
    *,
    method: str = "newton",
    tolerance: float | None = None,
    t: float = 0.0,
    args: tuple[Any, ...] = (),
    per_sample: bool = False,
    max_iterations: int = 50,
    solver: Solver | str = "tsit5",
    horizon: float = 1e6,
    throw: bool = True,
    phantom: Phantom | None = None,
) -> SteadyState:
    """A state at which the field vanishes.

    Differentiable once with respect to whatever the field depends on, by the implicit function theorem: dy = -J^-1 df,
    J = df/dy at the state found; nothing is kept of the way there. Not with respect to y0, on which a steady state
    depends only in the choice of one.

    Args:
        field: f(t, y, *args) -> like y; real.
        y0: start, a tensor or a tree of tensors.
        method: "newton" (damped; any steady state near y0, also an unstable one; a Jacobian matrix per iteration) or
            "flow" (the solve from y0 until |f| is a thousandth of what it was, then Newton: a solve with error control
            hovers about its steady state at a distance of its tolerance).
        tolerance: the root mean square of f, of every system, that counts as zero. None: 1e-8, or where the state's
            precision is lower a hundred times its rounding (1.2e-5 in float32).
        t: the time at which f is taken ("newton") or starts from ("flow", for fields that settle with time).
        per_sample: the first dimension of y0 numbers separate systems, each with a Jacobian of its own.
        max_iterations: Newton iterations.
        solver, horizon: of "flow": how, and for how long at most.
        throw: raise SolveError if it fails; otherwise see `status`.
        phantom: the gradient by a few steps y <- y + w f(t, y), cheap and biased, see `Phantom`; None is the exact one.
    """
    if method not in ("newton", "flow"):
        raise InputError(f"unknown method {method!r} for a steady state: use newton or flow.")
    layout = StateLayout.of(y0, batch_dims=int(per_sample))
    flat = FlatField(field, layout, args)
    y = layout.flatten(y0).detach()
    if y.is_complex():
        raise InputError("a steady state needs a real state: write real and imaginary parts as separate components.")
    if tolerance is None:
        tolerance = max(1e-8, 100 * torch.finfo(y.dtype).eps)
    if not tolerance > 0:
        raise InputError(f"tolerance must be positive, got {tolerance}.")
    problem = _Problem(flat, y.new_tensor(t, dtype=torch.float64), int(per_sample), tolerance, phantom)
    with torch.no_grad():
        if method == "newton":
            y, stats, status, message = problem.newton(y, max_iterations)
        else:
            y, stats, status, message = problem.flow(y, resolve_solver(solver), horizon)
            if not message:
                y, _, status, message = problem.newton(y, max_iterations)
        stats.nfe = flat.nfe
        residual = problem.size(flat.evaluate(problem.t, y))
    if throw and message:
        raise SolveError(message)
    if torch.is_grad_enabled():
        value = flat.evaluate(problem.t, y)
        if value.requires_grad:
            y = _Root.apply(value, y, problem)
    return SteadyState(layout.unflatten(y), residual, stats, status, message)


@dataclass
class _Problem:
    flat: FlatField
    t: Tensor
    batch_dims: int
    tolerance: float
    phantom: Phantom | None = None

    def size(self, f: Tensor) -> Tensor:
        """Root mean square of every system's f."""
        return f.reshape(*f.shape[: self.batch_dims], -1).square().mean(-1).sqrt()

    def newton(self, y: Tensor, iterations: int) -> tuple[Tensor, Stats, Status, str]:
        self.t = self.t.to(y.dtype)
        linearisation, stats = Linearisation(self.flat), Stats()
        f = self.flat(self.t, y)
        size = self.size(f)
        for _ in range(iterations):
            if not bool(torch.isfinite(size).all()):
                return y, stats, Status.NON_FINITE, "the vector field is not finite at the start."
            if bool((size <= self.tolerance).all()):
                return y, stats, Status.SUCCESS, ""
            factors = _factors(linearisation.matrix(self.t, y, self.batch_dims))
            if bool(factors.singular.any()):
                return y, stats, Status.NONLINEAR, "the Jacobian is singular: start elsewhere, or use method='flow'."
            # the factors are those of -J
            move = factors.solve(f.reshape(*f.shape[: self.batch_dims], -1)).reshape(y.shape)
            y, f, size, moved = self._damped(y, f, size, move)
            stats.accepted += 1
            if not moved:
                break
        if bool((size <= self.tolerance).all()):
            return y, stats, Status.SUCCESS, ""
        worst = float(size.max())
        return y, stats, Status.NONLINEAR, f"Newton's method stopped at |f| = {worst:.3g}: start nearer, or use flow."

    def _damped(self, y: Tensor, f: Tensor, size: Tensor, move: Tensor) -> tuple[Tensor, Tensor, Tensor, bool]:
        """Every system goes the longest of the fractions 1, 1/2, ... 2^-10 of its move that makes its |f| smaller."""
        waiting = size > self.tolerance
        best_y, best_f, best = y, f, size
        fraction = 1.0
        while fraction > 2**-11 and bool(waiting.any()):
            trial = y + fraction * move
            value = self.flat(self.t, trial)
            trial_size = self.size(value)
            better = waiting & (trial_size < size)
            mask = better.reshape(*better.shape, *[1] * (y.dim() - self.batch_dims))
            best_y, best_f = torch.where(mask, trial, best_y), torch.where(mask, value, best_f)
            best = torch.where(better, trial_size, best)
            waiting = waiting & ~better
            fraction /= 2
        return best_y, best_f, best, bool((best < size).any())

    def flow(self, y: Tensor, solver: Solver, horizon: float) -> tuple[Tensor, Stats, Status, str]:
        start = self.t
        integrator = solver.start(self.flat, start, y, 1.0)
        end = start + horizon
        integrator.aim(end.reshape(1), float(end))
        f = self.flat(start.to(y.dtype), y)
        settled = (1e-3 * self.size(f)).clamp(min=self.tolerance)
        while integrator.now < float(end) and bool(
            (self.size(f) > settled).any()
        ):  # False for NaN, which the integrator reports
            step = integrator.step()
            if step is None:
                break
            assert step.end_derivative is not None
            f = step.end_derivative()
        self.t = integrator.t.to(y.dtype)
        stats = Stats(accepted=integrator.accepted, rejected=integrator.rejected)
        if bool((self.size(f) <= settled).all()):
            return integrator.y, stats, Status.SUCCESS, ""
        if integrator.status != Status.SUCCESS:
            return integrator.y, stats, integrator.status, integrator.message
        worst = float(self.size(f).max())
        status = Status.MAX_STEPS if worst == worst else Status.NON_FINITE
        return integrator.y, stats, status, f"|f| = {worst:.3g} has not settled by t = {integrator.now:.6g}."

    def solve_transposed(self, y: Tensor, rhs: Tensor) -> Tensor:
        """-J^-T rhs at y."""
        rows = rhs.reshape(*rhs.shape[: self.batch_dims], -1)
        linearisation = Linearisation(self.flat)
        if self.phantom is not None:
            pull = linearisation.pullback(self.t, y)
            return self.phantom.solve(lambda v: -pull(v), rhs)
        if rows.shape[-1] <= _DENSE:
            return _factors(linearisation.matrix(self.t, y, self.batch_dims)).solve_transposed(rows).reshape(y.shape)
        pull = linearisation.pullback(self.t, y)
        batch = rows if self.batch_dims else rows[None]
        rtol = 100 * torch.finfo(y.dtype).eps
        result = gmres(lambda v: -pull(v.reshape(y.shape)).reshape(v.shape), batch, rtol=rtol, max_iterations=1000)
        return result.x.reshape(y.shape)


def _factors(matrix: Tensor) -> ShiftedLU:
    """Of -J: the identity's share is zero."""
    return ShiftedLU(matrix, 1.0, torch.zeros_like(matrix))


class _Root(torch.autograd.Function):
    """y as a function of f's parameters: (f(t, y), y) -> y, with dy = -J^-1 df."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, y: Tensor, problem: _Problem) -> Tensor:
        ctx.problem = problem
        ctx.save_for_backward(y)
        return y.clone()

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors
        return ctx.problem.solve_transposed(y, gradient), None, None
