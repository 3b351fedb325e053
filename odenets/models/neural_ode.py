"""A neural ODE: a vector field and the way it is integrated and differentiated."""

import math
from typing import Any

import torch
from torch import Tensor, nn

import odenets.solvers as solvers

OUTPUTS = ("end", "trajectory")


class NeuralODE(nn.Module):
    """The flow of `x' = field(t, x)` from t0 to t1 as a layer (Chen et al. 2018, arXiv:1806.07366).

    Args:
        field: a vector field `f(t, x) -> dx/dt`.
        solver: the name of a method ("dopri5", "rk4") or a solver object such as `FixedStep("rk4", steps=8)`.
        gradient: how the solve is differentiated: "autograd" or another name of `odenets.solvers`.
        t0, t1: the time interval when `forward` is given no times; t1 < t0 integrates backward.
        output: "end": the state at the last time; "trajectory": the states at all times.

    Raises:
        ValueError: unknown `output`, or t0 and t1 equal or not finite.
    """

    def __init__(
        self,
        field: nn.Module,
        solver: Any = "dopri5",
        gradient: str = "autograd",
        t0: float = 0.0,
        t1: float = 1.0,
        output: str = "end",
    ):
        super().__init__()
        if output not in OUTPUTS:
            raise ValueError(f"output= takes one of {OUTPUTS}, got {output!r}")
        if not (math.isfinite(t0) and math.isfinite(t1)) or t0 == t1:
            raise ValueError(f"NeuralODE expects two different finite times, got t0={t0}, t1={t1}")
        self.field = field
        self.solver = solver
        self.gradient = gradient
        self.t0 = t0
        self.t1 = t1
        self.output = output
        self.last_stats: Any = None

    def forward(self, x: Tensor, ts: Tensor | None = None) -> Tensor:
        """x of any shape the field takes, the state at ts[0]; ts [T] monotone, or None for (t0, t1).

        Returns the state at ts[-1] with x's shape, or with output="trajectory" the states [T, *x.shape].
        """
        if ts is None:
            # Filled on the device: a tensor made from Python numbers would be copied there.
            dtype = torch.promote_types(x.dtype, torch.float32)
            ts = torch.linspace(self.t0, self.t1, 2, dtype=dtype, device=x.device)
        solution = solvers.solve(self.field, x, ts, solver=self.solver, gradient=self.gradient)  # type: ignore[attr-defined]
        self.last_stats = solution.stats
        return solution.ys[-1] if self.output == "end" else solution.ys

    def extra_repr(self) -> str:
        return (
            f"t=({self.t0:g}, {self.t1:g}), solver={self.solver!r}, gradient={self.gradient!r}, output={self.output!r}"
        )
