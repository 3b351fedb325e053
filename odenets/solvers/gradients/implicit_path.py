"""The adjoint along a known path by an implicit method: a' = -(df/dy(t, y(t)))^T a is as stiff as the flow itself.

Walked backward it is as stable as the flow is forward, so an implicit method takes steps as long as the forward ones.
The equations are linear in a: their matrices are those of the field, transposed. The parameters' integral takes one
more product per stage of an accepted step, with the method's own weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..implicit.runge_kutta import ImplicitRungeKutta
from ..integrator import Integrator, Step
from ..methods import one_step_method
from ..solver import WALKERS, Adaptive, Solver
from ..state import StateLayout
from ..step import add_scaled, weighted_sum
from .backward_pass import AlongPath
from .backward_solver import start_backward
from .quadrature import FlatFunction, VectorJacobianProduct

STAND_IN = "kvaerno5"  # for methods that need more of a field than an adjoint's has


def implicit_solver(solver: Solver) -> Solver | None:
    """The solver of the adjoint along a path that this stiff solver took; None for other solvers.

    The same where the method is an implicit Runge-Kutta method. Rosenbrock methods need the Jacobian's derivative in
    time, additive ones two parts, BDF and switching a history: Kvaerno's method stands in for them, with the same
    tolerances. None on fixed steps: between grid points that do not resolve a transient there is no path to go along.
    """
    if not isinstance(solver, Adaptive):
        return None
    method = solver.method
    if method in WALKERS:
        return dataclasses.replace(solver, method=STAND_IN)
    known = one_step_method(method) if isinstance(method, str) else method
    if isinstance(known, ImplicitRungeKutta):
        return solver
    if getattr(known, "integrates_adjoints", True):
        return None
    return dataclasses.replace(solver, method=STAND_IN)


class AdjointField:
    """a' = -(df/dy)^T a at y(t), counted in `product` when called.

    Args:
        function: f(t, y) on flat states.
        path: t [] -> y(t) without a graph.
        product: of the function, without parameters.
    """

    def __init__(
        self, function: FlatFunction, path: Callable[[Tensor], Tensor], product: VectorJacobianProduct
    ) -> None:
        self.function, self.path, self.product = function, path, product

    def __call__(self, t: Tensor, a: Tensor) -> Tensor:
        return -self.product(t, self.path(t).detach(), a)[1]

    def evaluate(self, t: Tensor, a: Tensor) -> Tensor:
        """The same, differentiable with respect to a under `torch.func` and by autograd, and not counted."""
        y = self.path(t).detach()
        try:
            return -torch.func.vjp(lambda y: self.function(t, y), y)[1](a)[0]
        except RuntimeError:  # functions of the user's own that torch.func does not know
            with torch.enable_grad():
                y.requires_grad_()
                slope = self.function(t, y)
                if not slope.requires_grad:
                    return torch.zeros_like(a)
                create = a.requires_grad
                (pulled,) = torch.autograd.grad(slope, y, a, create_graph=create, retain_graph=True, allow_unused=True)
            return torch.zeros_like(a) if pulled is None else -pulled


class StageIntegral:
    """int a^T df/dtheta dt over the accepted steps of an implicit Runge-Kutta method for a.

    Args:
        params: theta.
        method: of the backward solve.
        field: (t, a) -> a^T df/dtheta at y(t), None for parameters that it does not reach.

    Attributes:
        total: the integral so far, one tensor per parameter.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        method: ImplicitRungeKutta,
        field: Callable[[Tensor, Tensor], Sequence[Tensor | None]],
    ) -> None:
        self.total = [torch.zeros_like(p) for p in params]
        self.tableau, self.field = method.extended, field

    def add(self, step: Step) -> None:
        """Account for an accepted step."""
        if not self.total:
            return
        h = step.end - step.start
        dtype = torch.empty((), dtype=step.y0.dtype).abs().dtype
        for weight, node, row in zip(self.tableau.b, self.tableau.c, self.tableau.matrix):
            if weight == 0:
                continue
            at = add_scaled(step.y0, h, weighted_sum(row.tolist(), step.stages[: len(row)]))
            gradients = self.field((step.t0 + node * h).to(dtype), at)
            used = [(total, g) for total, g in zip(self.total, gradients) if g is not None]
            if used:
                totals, found = (list(x) for x in zip(*used))
                torch._foreach_add_(totals, found, alpha=-h * weight)


class ImplicitAlongPath(AlongPath):
    """`AlongPath` with an implicit Runge-Kutta method; `solver` is one of `implicit_solver`."""

    alone: VectorJacobianProduct | None = None  # without the parameters

    def parameter_integral(self, params: Sequence[Tensor]) -> StageIntegral:
        method = self.solver.method  # type: ignore[union-attr]
        known = one_step_method(method) if isinstance(method, str) else method
        assert isinstance(known, ImplicitRungeKutta)
        return StageIntegral(params, known, lambda t, a: self.product(t, self.path(t).detach(), a)[2])

    def start(self, t: Tensor, state: Tensor, integral: Any) -> Integrator:
        self.alone = VectorJacobianProduct(self.function, ())
        field = AdjointField(self.function, self.path, self.alone)
        layout = StateLayout.of(state)
        return start_backward(self.solver, self.span, field, layout, t, state, self.state_norm, -self.direction)

    def back(self) -> None:
        if self.alone is not None:
            self.product.nfe += self.alone.nfe
