"""The parameters' gradient of a continuous adjoint as an integral over the backward steps, outside their state.

dL/dtheta = int a^T df/dtheta dt depends on nothing but the path (y(t), a(t)), so it need not be carried as a state of
the backward solve: each stage of a step differentiates the field once, with respect to y and theta together, and the
step's own weights add up what it found, sum_i h b_i a_i^T df/dtheta(t_i, y_i). That is the same number an explicit
Runge-Kutta method would compute with the integral in its state, at the same order, without P more components in every
stage, and it leaves the step size to y and a (the seminorm of Kidger, Chen, Lyons 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..integrator import Step
from ..tableau import ButcherTableau

FlatFunction = Callable[[Tensor, Tensor], Tensor]


class VectorJacobianProduct:
    """a^T df/dy and a^T df/dtheta of one evaluation of the field.

    Args:
        function: f(t, y) on flat states.
        params: theta, tensors that require grad.

    Attributes:
        nfe: calls so far.
    """

    def __init__(self, function: FlatFunction, params: Sequence[Tensor]) -> None:
        self.function, self.params = function, tuple(params)
        self.nfe = 0

    def __call__(self, t: Tensor, y: Tensor, a: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
        """(f(t, y), a^T df/dy, a^T df/dtheta), None for parameters that f does not reach. y must carry no graph."""
        self.nfe += 1
        with torch.enable_grad():
            y.requires_grad_()
            slope = self.function(t, y)
            if not slope.requires_grad:
                return slope, torch.zeros_like(y), (None,) * len(self.params)
            # a field may hold on to parts of its graph: weights formed once for all calls
            grad_y, *grads = torch.autograd.grad(slope, (y, *self.params), a, retain_graph=True, allow_unused=True)
        return slope, torch.zeros_like(y) if grad_y is None else grad_y, tuple(grads)


class ParameterIntegral:
    """int a^T df/dtheta dt over the steps of a backward solve.

    Args:
        params: theta.
        method: the explicit Runge-Kutta method of the backward solve.

    Attributes:
        total: the integral so far, one tensor per parameter.
    """

    def __init__(self, params: Sequence[Tensor], method: ButcherTableau) -> None:
        self.total = [torch.zeros_like(p) for p in params]
        self.weights = method.b
        self.found: dict[int, tuple[Tensor, Sequence[Tensor | None]]] = {}

    def note(self, stage: Tensor, gradients: Sequence[Tensor | None]) -> Tensor:
        """Remember a^T df/dtheta of a stage until the step that it is part of has been taken; returns the stage."""
        self.found[id(stage)] = (stage, gradients)  # with the stage itself, so that its id stays its own
        return stage

    def add(self, step: Step) -> None:
        """Account for an accepted step, the latest of the solve."""
        h = step.end - step.start
        for weight, stage in zip(self.weights, step.stages):
            if weight != 0:
                self._add(self.found[id(stage)][1], -h * weight)
        last = self.found[id(step.stages[-1])]  # may be the next step's first
        self.found = {id(last[0]): last}

    def _add(self, gradients: Sequence[Tensor | None], weight: float) -> None:
        used = [(total, g) for total, g in zip(self.total, gradients) if g is not None]
        if used:
            totals, found = (list(x) for x in zip(*used))
            torch._foreach_add_(totals, found, alpha=weight)
