"""Irregularly observed series, fitted by the evidence lower bound of a latent ODE."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from odenets.data import IrregularSeries
from odenets.errors import UserError
from odenets.models import LatentODE
from odenets.train.task import Task


class LatentFit(Task):
    """Minus the evidence lower bound per series in nats, from one sample of z(0):
    `-sum log N(x | decoded, noise^2) + w KL(q(z(0)) | N(0, I))`, w rising to one over the first part `warm` of the run.

    The encoder looks at the observations of the first half of the time, the likelihood counts all. Judged on other
    series, without noise and at all times: by the root mean square error where the encoder looked, and beyond.
    """

    headline = ("rmse_ahead", "rmse_seen")

    def __init__(self, network: LatentODE, warm: float = 0.3, dim: int = 4) -> None:
        super().__init__()
        if not isinstance(network, LatentODE):
            raise UserError(f"task=latent needs a model that encodes, such as latent_ode, got {type(network).__name__}")
        if network.latent != dim:
            raise UserError(f"model.latent: expected task.dim, {dim}, got {network.latent}")
        if not 0 <= warm <= 1:
            raise UserError(f"task.warm: expected a fraction of the run, 0 to 1, got {warm}")
        self.network: LatentODE = network
        self.warm = warm

    def attach(self, data: Any) -> None:
        if not isinstance(data, IrregularSeries):
            raise UserError(f"task=latent needs series such as data=damped_oscillations, got {type(data).__name__}")
        if data.train.shape[-1] != self.network.dim:
            raise UserError(f"model.dim: expected {data.train.shape[-1]}, the data's, got {self.network.dim}")
        self.data = data

    def order(self, generator: torch.Generator, batch_size: int, rank: int, world: int) -> list[Tensor]:
        permutation = torch.randperm(len(self.data.train), generator=generator)
        per_step = min(batch_size * world, len(permutation))
        starts = range(0, len(permutation) - per_step + 1, per_step)
        return [permutation[start + rank : start + per_step : world] for start in starts]

    def select(self, index: Tensor) -> tuple[Tensor, ...]:
        index = index.to(self.data.train.device)
        return self.data.train[index], self.data.train_mask[index]

    def forward(self, values: Tensor, mask: Tensor, progress: float) -> Tensor:
        posterior = self._encoded(values, mask)
        decoded = self.network.decode(posterior.sample(), self.data.times)
        weight = 1.0 if self.warm == 0 else min(1.0, progress / self.warm)
        return (self._surprise(decoded, values, mask) + weight * posterior.divergence()).mean()

    def _encoded(self, values: Tensor, mask: Tensor):
        seen = self.data.seen
        return self.network.encode(self.data.times[:seen], values[:, :seen], mask[:, :seen])

    def _surprise(self, decoded: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Minus the log-likelihood of the observations [B]."""
        scale = self.data.noise
        each = 0.5 * ((decoded - values) / scale).square() + math.log(scale) + 0.5 * math.log(2 * math.pi)
        return (each * mask[..., None]).sum((1, 2))

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Errors of the series decoded from the posterior's mean, and nats of its divergence per series."""
        posterior = self._encoded(self.data.test, self.data.test_mask)
        error = (self.network.decode(posterior.mean, self.data.times) - self.data.true).square()
        seen = self.data.seen
        return {
            "rmse_ahead": float(error[:, seen:].mean().sqrt()),
            "rmse_seen": float(error[:, :seen].mean().sqrt()),
            "divergence": float(posterior.divergence().mean()),
        }

    @torch.no_grad()
    def plot(self, folder: Path) -> list[Path]:
        from odenets.report.latent import plot_latent

        posterior = self._encoded(self.data.test[:4], self.data.test_mask[:4])
        end = float(self.data.times[-1])
        times = torch.linspace(end / 200, end, 200, dtype=torch.float64, device=self.data.times.device)
        samples = torch.stack([self.network.decode(posterior.sample(), times) for _ in range(10)])
        return [plot_latent(folder / "series.png", self.data, times, samples)]
