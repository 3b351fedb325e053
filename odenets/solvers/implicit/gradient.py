"""Gradients of implicit stages by the implicit function theorem.

The stages k solve k = F(k, p), p being everything else (state, step size, times, parameters). With M = I - dF/dk,

    dk = M^{-1} (dF/dp) dp,     and backwards     dL/dp = (dF/dp)^T lambda,   M^T lambda = dL/dk.

So the field is evaluated once more at the converged stages, recorded by autograd (that is dF/dp), and in front of it
stands a node that solves the transposed system: with the Jacobians at the converged stages themselves, never with those
the iteration was content with. The iterations are not recorded: memory and exactness do not depend on them.

Second derivatives need k inside dF/dp to be a function of p too. With `twice_differentiable` the stages therefore pass
through a Newton step once more, k = k1 + M^{-1} (F(k1, p) - k1), recorded with k1 = the stages attached as above: correct
first derivatives of k1 give correct second ones of k. lambda is then a recorded function of k1 and p, by one product
M^T lambda in front of a node that solves with M. Without the setting a second derivative is an error, not a wrong number.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .linear import Linearisation, gmres
from .nonlinear import StageSolver
from .phantom import Phantom
from .stages import StageEquations, by_stage, by_system


def attached(equations: StageEquations, k: Tensor, solver: StageSolver) -> Tensor:
    """The solved stages k [s, *state] as a differentiable function of all that the equations depend on."""
    if not torch.is_grad_enabled():
        return k
    slopes = equations.slopes(k)
    if equations.mass is not None:
        slopes = slopes - equations.weighed(k)  # the derivative with respect to M
        if solver.settings.twice_differentiable:
            raise InputError("twice_differentiable does not take a mass matrix: leave it out, or solve for y'.")
    if not slopes.requires_grad:
        return k
    h = equations.h if isinstance(equations.h, Tensor) else None
    system = _System(equations, solver)
    if not solver.settings.twice_differentiable:
        return _Stages.apply(system, slopes, k, equations.base, h, *equations.times)  # type: ignore[no-any-return]
    k = _Stages.apply(system, slopes, k, equations.base, h, *equations.times)  # type: ignore[no-untyped-call]
    return _NewtonStep.apply(system, equations.slopes(k), k, equations.base, h, *equations.times)  # type: ignore


def linear_solver(
    equations: StageEquations, k: Tensor, solver: StageSolver, transposed: bool
) -> Callable[[Tensor], Tensor]:
    """r [s, *state] -> x with M x = r or M^T x = r, M = I - dF/dk at the solved stages k."""
    return _System(equations, solver).inverse(equations, k, transposed)


class _System:
    """What the backward pass needs besides tensors."""

    def __init__(self, equations: StageEquations, solver: StageSolver) -> None:
        self.field, self.h, self.matrix = equations.field, equations.h, equations.matrix
        self.mass = None if equations.mass is None else equations.mass.detach()
        if isinstance(self.h, Tensor):
            self.h = 0.0
        self.line: Linearisation = solver.line
        self.twice = solver.settings.twice_differentiable
        self.phantom: Phantom | None = solver.settings.phantom
        self.batch_dims = solver.batch_dims(equations.times[0], equations.base)
        size = equations.base.shape[self.batch_dims :].numel()
        self.dense = size * len(self.matrix) <= max(solver.settings.dense_limit, 1)
        # one system is complete, and separate clocks promise separate systems; what was only probed is checked
        self.certain = self.batch_dims == 0 or solver.accuracy.per_sample

    def equations(self, base: Tensor, h: Tensor | None, times: tuple[Tensor, ...]) -> StageEquations:
        return StageEquations(self.field, times, self.h if h is None else h, base, self.matrix, self.mass)

    def solve(self, equations: StageEquations, k: Tensor, rhs: Tensor, transposed: bool) -> Tensor:
        """M^{-1} rhs or M^{-T} rhs [s, *state], without a graph."""
        return self.inverse(equations, k, transposed)(rhs)

    def inverse(self, equations: StageEquations, k: Tensor, transposed: bool) -> Callable[[Tensor], Tensor]:
        """M^{-1} or M^{-T}, factorised once."""
        with torch.no_grad():
            equations, k = equations.detached(), k.detach()
            if self.phantom is not None:
                apply = (equations.transposed_product if transposed else equations.product)(self.line, k)
                return lambda rhs: self.phantom.solve(apply, rhs.detach())  # type: ignore[union-attr]
            factors = self._factorised(equations, k, transposed) if self.dense else None
            if factors is not None and self.certain:
                return lambda rhs: by_stage(factors(by_system(rhs.detach(), self.batch_dims)), rhs)
            product = (equations.transposed_product if transposed else equations.product)(self.line, k)
            return lambda rhs: self._iterated(product, factors, rhs.detach())

    @torch.no_grad()
    def _iterated(
        self, product: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor] | None, rhs: Tensor
    ) -> Tensor:
        b = by_system(rhs, self.batch_dims)
        apply = lambda v: by_system(product(by_stage(v, rhs)), self.batch_dims)  # noqa: E731
        tolerance = torch.finfo(b.dtype).eps ** 0.75
        guess = None if inverse is None else inverse(b)
        if not self.certain:  # a residual per sample would not see that the samples are one system
            joined = b.reshape(1, -1)
            flat = lambda g: lambda v: g(v.reshape(b.shape)).reshape(1, -1)  # noqa: E731
            result = gmres(
                flat(apply), joined, guess=None if guess is None else guess.reshape(1, -1), rtol=tolerance,
                precondition=None if inverse is None else flat(inverse),
            )  # fmt: skip
        else:
            result = gmres(apply, b, guess=guess, rtol=tolerance, precondition=inverse)
        worst = float(result.residual.max())
        if worst > 1e3 * tolerance:
            warnings.warn(
                f"the gradient's linear system was solved to {worst:.1e} only, after {result.iterations} products: "
                "raise dense_limit of the nonlinear solver, or take smaller steps.",
                stacklevel=2,
            )
        return by_stage(result.x.reshape(b.shape), rhs)

    def _factorised(self, equations: StageEquations, k: Tensor, transposed: bool) -> Callable[[Tensor], Tensor]:
        matrix = equations.dense(self.line, k, self.batch_dims)
        matrix = matrix.reshape(-1, *matrix.shape[-2:])
        if matrix.dtype in (torch.float16, torch.bfloat16):
            matrix = matrix.float()
        factors, pivots, _ = torch.linalg.lu_factor_ex(matrix)

        def inverse(b: Tensor) -> Tensor:
            x = torch.linalg.lu_solve(factors, pivots, b.to(factors.dtype).unsqueeze(-1), adjoint=transposed)
            return x.squeeze(-1).to(b.dtype)

        return inverse


class _Stages(torch.autograd.Function):
    """Forward: k as it is. Backward: dL/dk -> lambda, for the slopes F to carry on."""

    @staticmethod
    def forward(ctx: Any, system: _System, slopes: Tensor, k: Tensor, base: Tensor, h: Tensor | None, *times: Tensor):
        ctx.system = system
        stages = k.clone()
        ctx.save_for_backward(stages, base, h, *times)
        return stages

    @staticmethod
    def backward(ctx: Any, gradient: Tensor):  # type: ignore[override]
        k, base, h, *times = ctx.saved_tensors
        system = ctx.system
        solution = system.solve(system.equations(base, h, tuple(times)), k, gradient, transposed=True)
        if torch.is_grad_enabled() and not system.twice:
            solution = _Refusal.apply(solution, gradient, k)
        return None, solution, None, None, None, *([None] * len(times))


class _Refusal(torch.autograd.Function):
    """What it returns cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, solution: Tensor, *depends_on: Tensor) -> Tensor:
        return solution.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):  # type: ignore[override]
        raise InputError(
            "second derivatives through an implicit step need nonlinear=Newton(twice_differentiable=True), which costs "
            "one more evaluation per stage."
        )


class _NewtonStep(torch.autograd.Function):
    """k1 + M^{-1} (F(k1) - k1), whose first derivatives with respect to k1 vanish, but not the second ones."""

    @staticmethod
    def forward(ctx: Any, system: _System, slopes: Tensor, k: Tensor, base: Tensor, h: Tensor | None, *times: Tensor):
        ctx.system = system
        ctx.save_for_backward(k, base, h, *times)
        return k.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor):  # type: ignore[override]
        k, base, h, *times = ctx.saved_tensors
        equations = ctx.system.equations(base, h, tuple(times))
        solution = ctx.system.solve(equations, k, gradient, transposed=True)
        if torch.is_grad_enabled():  # lambda as a function of k, of all else, and of the gradient that came in
            solution = solution.detach()
            left = gradient - _transposed_product(equations, k, solution)
            solution = solution + _Correction.apply(ctx.system, left, k, base, h, *times)
        return None, solution, gradient - solution, None, None, *([None] * len(times))


def _transposed_product(equations: StageEquations, k: Tensor, v: Tensor) -> Tensor:
    """M^T v = v - (dF/dk)^T v, recorded as a function of k and of all else."""
    slopes = equations.slopes(k)
    (pulled,) = torch.autograd.grad(slopes, k, v, create_graph=True, allow_unused=True)
    return v if pulled is None else v - pulled


class _Correction(torch.autograd.Function):
    """Forward: nothing, as the residual of the solved system is zero. Backward: M^{-1}."""

    @staticmethod
    def forward(ctx: Any, system: _System, residual: Tensor, k: Tensor, base: Tensor, h: Tensor | None, *times: Tensor):
        ctx.system = system
        ctx.save_for_backward(k, base, h, *times)
        return torch.zeros_like(residual)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor):  # type: ignore[override]
        k, base, h, *times = ctx.saved_tensors
        equations = ctx.system.equations(base, h, tuple(times))
        solution = ctx.system.solve(equations, k, gradient, transposed=False)
        return None, solution, None, None, None, *([None] * len(times))
