"""How well a solver solves a given field: nothing is trained, and the true solution is computed by another one."""

from typing import Any

import torch
from torch import Tensor, nn

from odenets.data import InitialValueProblem
from odenets.errors import UserError
from odenets.models import NeuralODE
from odenets.solvers import Scipy, SolveError, Solver, solve
from odenets.train.task import Task


class SolutionAccuracy(Task):
    """Error of a `NeuralODE`'s trajectory against a reference solution of the same field.

    The loss is the mean square of the trajectory, every component over its largest size: not to be made small but to be
    differentiated, with respect to the start and the field's coefficients, so that gradient methods can be compared too.

    Args:
        network: a `NeuralODE` with output="trajectory".
        reference: the solver of the reference solution, in float64.
    """

    headline = ("relative_error",)
    network: NeuralODE

    def __init__(self, network: nn.Module, reference: Solver | None = None) -> None:
        super().__init__()
        if not isinstance(network, NeuralODE) or network.output != "trajectory":
            raise UserError("task=solution solves a field: it needs model=neural_ode with model.output=trajectory")
        self.network = network
        self.reference = reference or Scipy("LSODA", rtol=1e-11, atol=1e-13)

    def attach(self, data: Any) -> None:
        if not isinstance(data, InitialValueProblem):
            raise UserError(f"task=solution needs data=initial_value_problem, got {type(data).__name__}")
        field = self.network.field
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        field.double()
        try:
            start = data.state(field).to(device)
            self.times = data.times(field).to(device)
            with torch.no_grad():
                self.truth = solve(field, start, self.times, solver=self.reference).ys  # [T, 1, d]
        except SolveError as error:
            raise UserError(f"task.reference: the reference solution failed: {error}") from error
        except ValueError as error:
            raise UserError(str(error)) from error
        self.size = self.truth.abs().amax(0).clamp_min(torch.finfo(torch.float64).tiny)  # [1, d]
        self.start = nn.Parameter(start)
        self.names = tuple(getattr(field, "names", ())) or tuple(f"x{i}" for i in range(start.shape[1]))

    def order(self, generator: torch.Generator, batch_size: int, rank: int, world: int) -> list[Tensor]:
        return [torch.empty(0)]

    def select(self, index: Tensor) -> tuple[Tensor, ...]:
        return ()

    def forward(self, progress: float) -> Tensor:
        return (self.network(self.start, self.times) / self.size).square().mean()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """`relative_error`: the largest error of any component at any of the times, over the component's largest size."""
        error = (self.network(self.start, self.times) - self.truth).abs() / self.size
        return {"relative_error": float(error.amax()), "relative_error_at_the_end": float(error[-1].amax())}

    def facts(self) -> dict[str, float]:
        stats = self.network.last_stats
        return (
            {}
            if stats is None
            else {"evaluations": stats.nfe, "steps": int(stats.accepted), "rejected": int(stats.rejected)}
        )

    @torch.no_grad()
    def portrait(self) -> dict[str, Any]:
        return {
            "names": list(self.names),
            "unit": "",
            "time_unit": "t",
            "times": self.times.tolist(),
            "states": self.network(self.start, self.times)[:, 0].tolist(),
            "measured_times": self.times.tolist(),
            "origin": "the reference solution",
            "measured": self.truth[:, 0].tolist(),
        }
