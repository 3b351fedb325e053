"""A density fitted to points by maximum likelihood."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from odenets.data import Points
from odenets.errors import UserError
from odenets.models import CNF
from odenets.train.task import Task

PART = 1024  # points at a time in the evaluation
SPAN = 4.0  # the plane is looked at over [-SPAN, SPAN]^2 standard deviations of the data


class DensityEstimation(Task):
    """Minus the log-likelihood of points [B, d] in nats, and RNODE's penalties on the way they take.

    `loss = mean(-log p(x) + kinetic int |f|^2 dt + jacobian int |df/dx|_F^2 dt)` (Finlay et al. 2020,
    arXiv:2002.02798, equation 8, times d). The penalties make the solutions straight and the solves cheap.
    Judged by minus the log-likelihood of held-out points, with the exact trace.
    """

    headline = ("test_loss", "evaluations")

    def __init__(self, network: CNF, kinetic: float = 0.0, jacobian: float = 0.0) -> None:
        super().__init__()
        if not isinstance(network, CNF):
            raise UserError(f"task=density needs a density such as model=cnf, got {type(network).__name__}")
        if kinetic < 0 or jacobian < 0:
            raise UserError(f"task: expected kinetic >= 0 and jacobian >= 0, got {kinetic} and {jacobian}")
        self.network: CNF = network
        self.kinetic = kinetic
        self.jacobian = jacobian

    def attach(self, data: Any) -> None:
        if not isinstance(data, Points):
            raise UserError(f"task=density needs points such as data=moons, got {type(data).__name__}")
        if data.train.shape[1] != self.network.dim:
            raise UserError(f"model.dim: expected {data.train.shape[1]}, the data's dimension, got {self.network.dim}")
        self.data = data

    def order(self, generator: torch.Generator, batch_size: int, rank: int, world: int) -> list[Tensor]:
        n = len(self.data.train)
        permutation = torch.randperm(n, generator=generator)
        per_step = min(batch_size * world, n)
        return [permutation[start + rank : start + per_step : world] for start in range(0, n - per_step + 1, per_step)]

    def select(self, index: Tensor) -> tuple[Tensor, ...]:
        return (self.data.train[index.to(self.data.train.device)],)

    def forward(self, points: Tensor, progress: float) -> Tensor:
        penalties = self.kinetic > 0 or self.jacobian > 0
        moved = self.network(points, penalties)
        loss = -(self.network.base_log_prob(moved.z) + moved.log_det).mean()
        if penalties:
            loss = loss + self.kinetic * moved.kinetic.mean() + self.jacobian * moved.jacobian.mean()
        return loss

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Per point: nats, RNODE's two integrals; and the evaluations of the field in a solve."""
        sums, evaluations, parts = torch.zeros(3), 0, self.data.test.split(PART)
        for part in parts:
            moved = self.network(part, penalties=True)
            loss = -(self.network.base_log_prob(moved.z) + moved.log_det)
            sums += torch.stack([x.sum().cpu() for x in (loss, moved.kinetic, moved.jacobian)])
            evaluations += self.network.last_stats.nfe
        means = dict(zip(("test_loss", "kinetic_energy", "jacobian_norm"), (sums / len(self.data.test)).tolist()))
        return means | {"evaluations": evaluations / len(parts)}

    def facts(self) -> dict[str, float]:
        """What the density sums up to over the plane: 1 if solver and field agree with each other."""
        if self.network.dim != 2:
            return {}
        _, density = self._on_the_plane(161)
        return {"mass_on_the_plane": float(density.sum() * (2 * SPAN / 160) ** 2)}

    def plot(self, folder: Path) -> list[Path]:
        from odenets.report.density import plot_density

        if self.network.dim != 2:
            return []
        axis, density = self._on_the_plane(201)
        samples = self.network.sample(2000, torch.Generator().manual_seed(0))
        return [plot_density(folder / "density.png", self.data.test, axis, density, samples)]

    @torch.no_grad()
    def _on_the_plane(self, points: int) -> tuple[Tensor, Tensor]:
        """An axis [n] and the density [n, n] at (axis[j], axis[i])."""
        training = self.network.training
        self.network.eval()
        axis = torch.linspace(-SPAN, SPAN, points, device=self.data.test.device)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        where = torch.stack([x.flatten(), y.flatten()], -1)
        density = torch.cat([self.network.log_prob(part).exp() for part in where.split(8 * PART)])
        self.network.train(training)
        return axis, density.view(points, points)
