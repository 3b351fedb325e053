"""A field learned from short pieces of many noisy trajectories, judged over long times by its energy."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from odenets.data import Swings
from odenets.errors import UserError
from odenets.train.task import Task


class SwingsFit(Task):
    """Mean squared error of the computed states over pieces of `horizon` steps that start at measured states.

    `network(x0, ts) -> [T, B, 2]` computes trajectories. Judged on trajectories without noise that are longer than the
    ones it learns from: the error of the state, and how far the true energy drifts away from that at the start.
    """

    headline = ("test_rmse", "energy_drift")

    def __init__(self, network: nn.Module, horizon: int = 5) -> None:
        super().__init__()
        if horizon < 1:
            raise UserError(f"task.horizon: expected at least 1 step, got {horizon}")
        self.network = network
        self.horizon = horizon

    def attach(self, data: Any) -> None:
        if not isinstance(data, Swings):
            raise UserError(f"task=swings needs trajectories such as data=pendulum_swings, got {type(data).__name__}")
        if data.train.shape[1] <= self.horizon:
            raise UserError(f"task.horizon: expected less than {data.train.shape[1]}, the points, got {self.horizon}")
        self.data = data
        self.pieces = data.train.unfold(1, self.horizon + 1, 1).permute(0, 1, 3, 2).flatten(0, 1)  # [P, horizon + 1, 2]

    def order(self, generator: torch.Generator, batch_size: int, rank: int, world: int) -> list[Tensor]:
        permutation = torch.randperm(len(self.pieces), generator=generator)
        per_step = min(batch_size * world, len(permutation))
        starts = range(0, len(permutation) - per_step + 1, per_step)
        return [permutation[start + rank : start + per_step : world] for start in starts]

    def select(self, index: Tensor) -> tuple[Tensor, ...]:
        return (self.pieces[index.to(self.pieces.device)],)

    def forward(self, pieces: Tensor, progress: float) -> Tensor:
        computed = self.network(pieces[:, 0], self._times(pieces.shape[1])).transpose(0, 1)
        return (computed - pieces)[:, 1:].square().mean()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """`energy_drift`: mean over trajectories of the largest |H(t) - H(0)| / H(0), with the true energy H."""
        computed = self._computed()
        energy = self.data.energy(computed)
        drift = ((energy - energy[:, :1]).abs().amax(1) / energy[:, 0]).mean()
        seen = self.data.train.shape[1]
        errors = (computed - self.data.test).square().sum(-1)
        return {
            "test_rmse": float(errors.mean().sqrt()),
            "test_rmse_over_the_time_seen": float(errors[:, :seen].mean().sqrt()),
            "energy_drift": float(drift),
        }

    def plot(self, folder: Path) -> list[Path]:
        from odenets.report.energy import plot_energy

        computed = self._computed()
        times = self._times(computed.shape[1])
        return [plot_energy(folder / "energy.png", times, computed, self.data.test, self.data.energy)]

    @torch.no_grad()
    def _computed(self) -> Tensor:
        test = self.data.test
        return self.network(test[:, 0], self._times(test.shape[1])).transpose(0, 1)

    def _times(self, points: int) -> Tensor:
        return self.data.step * torch.arange(points, dtype=torch.float64, device=self.data.test.device)
