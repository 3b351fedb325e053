"""Fit one measured trajectory: the field's parameters and the initial state together.

The horizon grows during the first part of the run: a long oscillating trajectory has many poor local minima in phase
and period, a short one does not, and each longer horizon starts from the fit of a shorter one.
"""

import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from odenets.data import Series
from odenets.errors import UserError
from odenets.fields.systems.base import System
from odenets.train.task import Task


class TrajectoryFit(Task):
    """Least squares between the logarithms of the measured and the computed trajectory (relative errors count).

    `network(x0, ts) -> [T, B, d]` computes the trajectory. `scaling="none"` gives it states in the data's own unit (a
    physical field); `scaling="log"` gives it standardised logarithms (a neural field); `auto` chooses by the field.
    `growth` is the fraction of the run in which the horizon grows from `first_horizon` points to all of them.
    """

    headline = ("log_rmse", "log_r2")

    def __init__(
        self,
        network: nn.Module,
        scaling: Literal["auto", "none", "log"] = "auto",
        steps_per_epoch: int = 25,
        first_horizon: int = 4,
        growth: float = 0.5,
        dim: int = 2,
    ) -> None:
        super().__init__()
        if steps_per_epoch < 1:
            raise UserError(f"task.steps_per_epoch: expected at least 1, got {steps_per_epoch}")
        if first_horizon < 2:
            raise UserError(f"task.first_horizon: expected at least 2 points, got {first_horizon}")
        if not 0 <= growth <= 1:
            raise UserError(f"task.growth: expected a fraction of the run, 0 to 1, got {growth}")
        self.network = network
        self.scaling = _scaling(network) if scaling == "auto" else scaling
        self.steps_per_epoch = steps_per_epoch
        self.first_horizon = first_horizon
        self.growth = growth
        self.initial = nn.Parameter(torch.zeros(1, dim))  # standardised logarithm of the state at the first time

    def attach(self, data: Any) -> None:
        if not isinstance(data, Series):
            raise UserError(f"task=trajectory needs a series such as data=lynx_hare, got {type(data).__name__}")
        if data.values.shape[1] != self.initial.shape[1]:
            raise UserError(
                f"task.dim: expected {data.values.shape[1]}, the data's dimension, got {self.initial.shape[1]}"
            )
        self.data = data
        self.log_values = data.values.log()  # [T, d]
        self.mean, self.spread = self.log_values.mean(0), self.log_values.std(0)
        with torch.no_grad():
            self.initial.copy_((self.log_values[:1] - self.mean) / self.spread)

    def order(self, generator: torch.Generator, batch_size: int, rank: int, world: int) -> list[Tensor]:
        return [torch.empty(0)] * self.steps_per_epoch

    def select(self, index: Tensor) -> tuple[Tensor, ...]:
        return ()

    def horizon(self, progress: float) -> int:
        """How many of the measured points the loss looks at when a fraction `progress` of the run is done."""
        total = len(self.data.times)
        if progress >= self.growth:
            return total
        return min(total, math.ceil(self.first_horizon + (total - self.first_horizon) * progress / self.growth))

    def log_trajectory(self, times: Tensor) -> Tensor:
        """Logarithm of the computed state in the data's unit, [T, d]; a state that is not positive gives a large
        negative number instead of nan."""
        if self.scaling == "log":
            return self.network(self.initial, times)[:, 0] * self.spread + self.mean  # [T, d]
        start = (self.initial * self.spread + self.mean).exp()
        return self.network(start, times)[:, 0].clamp_min(1e-3).log()  # [T, d]

    def forward(self, progress: float) -> Tensor:
        points = self.horizon(progress)
        difference = self.log_trajectory(self.data.times[:points]) - self.log_values[:points]
        return difference.square().mean()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        fitted = self.log_trajectory(self.data.times)
        error = fitted - self.log_values
        r2 = 1 - error.square().sum() / (self.log_values - self.log_values.mean(0)).square().sum()
        rmse = (fitted.exp() - self.data.values).square().mean().sqrt()
        return {
            "log_rmse": float(error.square().mean().sqrt()),
            "log_r2": float(r2),
            f"rmse_in_{self.data.unit.replace(' ', '_')}": float(rmse),
        }

    @torch.no_grad()
    def plot(self, folder: Path) -> list[Path]:
        from odenets.report.dynamics import plot_fit, plot_phase

        times, fitted = self._fitted()
        return [
            plot_fit(folder / "fit.png", self.data, times, fitted),
            plot_phase(folder / "phase.png", self.data, fitted),
        ]

    def _fitted(self) -> tuple[Tensor, Tensor]:
        """401 times over the measured interval, and the states there."""
        times = torch.linspace(float(self.data.times[0]), float(self.data.times[-1]), 401, device=self.initial.device)
        return times, self.log_trajectory(times).exp()

    @torch.no_grad()
    def portrait(self) -> dict[str, Any]:
        times, fitted = self._fitted()
        data = self.data
        return {
            "names": list(data.names),
            "unit": data.unit,
            "time_unit": data.time_unit,
            "times": (data.origin + times).tolist(),
            "states": fitted.tolist(),
            "measured_times": (data.origin + data.times).tolist(),
            "measured": data.values.tolist(),
        }

    def facts(self) -> dict[str, float]:
        field = getattr(self.network, "field", None)
        coefficients = field.named_children() if isinstance(field, System) else ()
        start = (self.initial.detach() * self.spread + self.mean).exp()[0]
        return {name: float(torch.as_tensor(coefficient()).detach()) for name, coefficient in coefficients} | {
            f"{name}_at_start": float(x) for name, x in zip(self.data.names, start)
        }


def _scaling(network: nn.Module) -> Literal["none", "log"]:
    """Physical fields speak in the data's unit; neural fields want numbers of order one."""
    return "none" if isinstance(getattr(network, "field", None), System) else "log"
