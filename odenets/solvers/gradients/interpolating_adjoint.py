"""The adjoint along the forward solve's dense output: y(t) is known, and only a is solved for.

    a' = -(df/dy(t, y(t)))^T a,   dL/dtheta = int a^T df/dtheta dt.

Where the flow contracts, the continuous adjoint's y computed backward diverges from the path that was taken, as
exp(rate * time); a itself decays. This is the interpolating adjoint of SciMLSensitivity (Rackauckas et al.,
"Universal differential equations for scientific machine learning", 2020): memory N (s + 1) D for N steps of s stages,
no graph, and a backward solve of size D whose steps depend on the adjoint alone. On stiff problems it is the continuous
adjoint that works; implicit methods are the matter of `implicit_path`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, SolveError
from ..integrator import Step
from ..norms import state_norm
from ..solution import Solution, Stats
from .adjoint import PassProblem, adjoint_solve
from .backward_pass import AlongPath, explicit_tableau
from .base import Gradient, SolveProblem, judged, pad_with_nan, stats_of
from .implicit_path import ImplicitAlongPath, implicit_solver


@dataclass(frozen=True)
class InterpolatingAdjoint(Gradient):
    """For explicit Runge-Kutta methods and all adaptive stiff ones.

    As good as the tolerance and the order of their dense output.
    """

    name: ClassVar[str] = "interpolating_adjoint"

    def check(self, problem: SolveProblem) -> None:
        super().check(problem)
        if explicit_tableau(problem.solver) is None and implicit_solver(problem.solver) is None:
            method = getattr(problem.solver, "method", "")
            raise InputError(
                "gradient='interpolating_adjoint' needs an explicit Runge-Kutta method, or a stiff one with step size "
                f"control, got {type(problem.solver).__name__}({method!r}): take one, or gradient='checkpoint'."
            )

    def solve(self, problem: SolveProblem) -> Solution:
        solver, flat, ts, y = problem.solver, problem.flat, problem.ts, problem.y
        params = problem.parameters(self.name)
        integrator = problem.start(ts[0].detach(), y.detach())
        path, stats = RecordedPath(problem.direction), Stats()

        def forward() -> Tensor:
            integrator.recorder = path.steps
            return pad_with_nan(torch.cat([y[None], integrator.outputs(ts[1:].detach())]), len(ts))

        norm = state_norm(flat.layout, getattr(solver, "norm", None))
        span = float((ts[-1] - ts[0]).detach())
        stiff = implicit_solver(solver)
        walk, how = (AlongPath, solver) if stiff is None else (ImplicitAlongPath, stiff)
        backward = walk(path, how, flat, norm, span, problem.direction, stats)
        ys = adjoint_solve(PassProblem(forward, backward), ts, y, params)
        done = stats_of(flat, integrator)
        stats.nfe, stats.accepted, stats.rejected = done.nfe, done.accepted, done.rejected
        return judged(Solution(ts, ys, stats, integrator.status, integrator.message), integrator)


class RecordedPath:
    """t [] -> y(t) from the steps' polynomials, without waiting for the device.

    Args:
        direction: +1.0 or -1.0.

    Attributes:
        steps: of one method, in walking order.
    """

    def __init__(self, direction: float) -> None:
        self.direction = direction
        self.steps: list[Step] = []
        self.data: tuple[Tensor, ...] = ()

    def __call__(self, t: Tensor) -> Tensor:
        if not self.data and not self.steps:
            raise SolveError("there is nothing to differentiate: the forward solve failed at its first step.")
        if not self.data:
            self.data, self.steps = _stacked(self.steps, self.direction), []
        starts, sizes, states, stages, coefficients, powers = self.data
        t = t.to(starts.dtype)
        # the last step that had begun by then
        n = torch.searchsorted(starts * self.direction, (t * self.direction).reshape(1), right=True)
        n = (n - 1).clamp_(min=0)
        h = sizes.index_select(0, n)
        theta = (t - starts.index_select(0, n)) / h
        own = coefficients if coefficients.dim() == 2 else coefficients.index_select(0, n)[0]
        weights = (own @ theta**powers) * h
        y, k = states.index_select(0, n)[0], stages.index_select(0, n)[0]
        return y + torch.tensordot(weights.to(y.dtype), k, dims=1)


def _stacked(steps: Sequence[Step], direction: float) -> tuple[Tensor, ...]:
    """Starts [N], sizes [N], states [N, *state], stages [N, s, *state], coefficients [s, degree] or, where the steps are
    of several methods or orders, [N, s, degree], and powers [degree]; what one has less than another is zero.
    """
    y = steps[0].y0
    times: dict[str, Any] = {"dtype": torch.float64, "device": y.device}
    shapes = np.array([step.coefficients.shape for step in steps])
    most, degree = shapes.max(0)
    same = all(step.coefficients is steps[0].coefficients for step in steps)
    rows = [np.pad(step.coefficients, ((0, most - s), (0, degree - d))) for step, (s, d) in zip(steps, shapes)]
    nothing = torch.zeros_like(y)
    stages = [[*step.stages[:s], *[nothing] * (most - s)] for step, (s, _) in zip(steps, shapes)]
    return (
        torch.tensor([step.start for step in steps], **times),
        torch.tensor([step.end - step.start for step in steps], **times),
        torch.stack([step.y0 for step in steps]),
        torch.stack([torch.stack(own) for own in stages]),
        torch.as_tensor(rows[0] if same else np.stack(rows), **times),
        torch.arange(1, int(degree) + 1, **times),
    )
