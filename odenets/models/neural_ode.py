"""A neural ODE: a vector field and the way it is integrated and differentiated."""

import dataclasses
import math

import torch
from torch import Tensor, nn

from odenets.solvers import Adaptive, Gradient, Solver, Stats, resolve_gradient, resolve_solver, solve
from odenets.solvers.compiled import check_mode

OUTPUTS = ("end", "trajectory")


class NeuralODE(nn.Module):
    """The flow of `x' = field(t, x)` from t0 to t1 as a layer (Chen et al. 2018, arXiv:1806.07366).

    Args:
        field: a vector field `f(t, x) -> dx/dt`.
        solver: the name of a method ("dopri5", "rk4") or a solver such as `FixedStep("rk4", steps=8)`. An `Adaptive`
            one with a common clock and no jump times of its own is given the field's `jump_times`, where it has any.
        gradient: how the solve is differentiated, as in `odenets.solvers.solve`: a name, or a method with its settings.
        t0, t1: the time interval when `forward` is given no times; t1 < t0 integrates backward.
        output: "end": the state at the last time; "trajectory": the states at all times.
        compile: False, "step", "solve" or "auto", as in `odenets.solvers.solve`.

    Attributes:
        last_stats: evaluations and steps of the latest solve (`Stats`), None before; under gradient="adjoint" its
            backward counts are filled in by the backward pass.

    Raises:
        ValueError: unknown `output`, solver or gradient, t0 and t1 equal or not finite, or a field that is no module.
    """

    def __init__(
        self,
        field: nn.Module,
        solver: Solver | str = "dopri5",
        gradient: Gradient | str = "autograd",
        t0: float = 0.0,
        t1: float = 1.0,
        output: str = "end",
        compile: bool | str = False,
    ):
        super().__init__()
        if not isinstance(field, nn.Module):
            raise ValueError(
                f"NeuralODE expects its field as an nn.Module, got {type(field).__name__}; "
                "in a plain function the solver cannot find the parameters to differentiate"
            )
        if output not in OUTPUTS:
            raise ValueError(f"output= takes one of {OUTPUTS}, got {output!r}")
        if not (math.isfinite(t0) and math.isfinite(t1)) or t0 == t1:
            raise ValueError(f"NeuralODE expects two different finite times, got t0={t0}, t1={t1}")
        check_mode(compile)
        self.field = field
        self.solver = _stopping_at_jumps(resolve_solver(solver), getattr(field, "jump_times", ()))
        self.gradient = resolve_gradient(gradient)
        self.t0 = t0
        self.t1 = t1
        self.output = output
        self.compiled = compile
        self.last_stats: Stats | None = None

    def forward(self, x: Tensor, ts: Tensor | None = None) -> Tensor:
        """x of any shape the field takes, the state at ts[0]; ts [T] monotone, or None for (t0, t1).

        Returns the state at ts[-1] with x's shape, or with output="trajectory" the states [T, *x.shape].
        """
        if ts is None:
            # The solvers' own precision: rounded to float32, t1 = 0.7 would be off by 1e-8.
            ts = torch.tensor([self.t0, self.t1], dtype=torch.float64, device=x.device)
        field = self.solved_field(x, ts)
        solution = solve(field, x, ts, solver=self.solver, gradient=self.gradient, compile=self.compiled)
        self.last_stats = solution.stats
        return solution.ys[-1] if self.output == "end" else solution.ys

    def solved_field(self, x: Tensor, ts: Tensor) -> nn.Module:
        """The field in the form that the solver is given, for a solve from x over ts."""
        return self.field

    def extra_repr(self) -> str:
        # Only the settings that differ from their defaults: a solver has a dozen.
        changed = [
            f"{f.name}={getattr(self.solver, f.name)!r}"
            for f in dataclasses.fields(self.solver)
            if f.name == "method" or not _is_default(f, getattr(self.solver, f.name))
        ]
        solver = f"{type(self.solver).__name__}({', '.join(changed)})"
        return f"t=({self.t0:g}, {self.t1:g}), solver={solver}, gradient={self.gradient}, output={self.output!r}"


def _stopping_at_jumps(solver: Solver, jump_times: tuple[float, ...]) -> Solver:
    if not jump_times or not isinstance(solver, Adaptive) or solver.per_sample or solver.jump_t is not None:
        return solver
    return dataclasses.replace(solver, jump_t=jump_times)


def _is_default(field: dataclasses.Field, value: object) -> bool:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    # A tensor of tolerances has no truth value to compare by; it is never a default.
    return not isinstance(value, Tensor) and value == default
