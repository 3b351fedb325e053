"""`odeint_dense`: the solution as a function of time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..dense import DenseOutput
from ..errors import InputError
from .odeint import raise_failure
from .problem import Problem


def odeint_dense(
    func: Callable[[Tensor, Any], Any],
    y0: Any,
    t0: Tensor | float,
    t1: Tensor | float,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
) -> DenseOutput:
    """Solve from t0 to t1 and return t [...] -> y(t) [..., *y0.shape], for t between them.

    Arguments as in `odeint`; any method that shows its steps (all but scipy_solver), tensors and tuples.
    """
    # numbers straight to float64: on their way through float32 they would lose digits
    t = torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in (t0, t1)])
    problem = Problem.read(func, y0, t, rtol, atol, method, options)
    if method == "scipy_solver":
        raise InputError("scipy_solver does not show its steps: choose another method for dense output.")
    integrator = problem.start(problem.times[0], problem.y0)
    integrator.recorder = []
    flat = integrator.outputs(problem.times[1:])
    if integrator.message:
        raise_failure(problem, integrator, problem.layout.unflatten(flat, (len(flat),)))
    return DenseOutput(integrator.recorder, problem.layout, problem.direction)
