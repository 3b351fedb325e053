"""A latent ODE: irregular observations encoded into the start of a hidden trajectory, and decoded from it anywhere."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from odenets.models.neural_ode import NeuralODE
from odenets.solvers import Gradient, Solver


class Posterior(NamedTuple):
    """A normal distribution with independent components. Attributes: mean, log_scale [B, latent]."""

    mean: Tensor
    log_scale: Tensor

    def sample(self) -> Tensor:
        return self.mean + self.log_scale.exp() * torch.randn_like(self.mean)

    def divergence(self) -> Tensor:
        """From the standard normal distribution, in nats [B]."""
        square = self.mean.square() + (2 * self.log_scale).exp()
        return (0.5 * (square - 1) - self.log_scale).sum(-1)


class LatentODE(nn.Module):
    """`z(0) ~ q(z | observations)`, `z' = field(t, z)`, `x(t) = decoder(z(t))`: Chen et al. 2018 (arXiv:1806.07366),
    section 5; Rubanova, Chen, Duvenaud 2019 (arXiv:1907.03907).

    The encoder is a gated recurrent unit that runs through the observations from the last to the first; between them it
    stands still and is told how long.

    Args:
        field: a vector field on z [B, latent].
        dim: channels of the observations.
        latent: size of z.
        hidden: width of encoder and decoder.
        solver, gradient: as in `NeuralODE`.

    Raises:
        ValueError: dim, latent or hidden < 1, or (on call) observations that are not [B, T, dim].
    """

    def __init__(
        self,
        field: nn.Module,
        dim: int = 1,
        latent: int = 4,
        hidden: int = 32,
        solver: Solver | str = "dopri5",
        gradient: Gradient | str = "autograd",
    ):
        super().__init__()
        if min(dim, latent, hidden) < 1:
            raise ValueError(f"LatentODE expects sizes of at least 1, got dim={dim}, latent={latent}, hidden={hidden}")
        self.dim, self.latent = dim, latent
        self.cell = nn.GRUCell(dim + 1, hidden)
        self.posterior = nn.Linear(hidden, 2 * latent)
        self.flow = NeuralODE(field, solver, gradient, output="trajectory")
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.Tanh(), nn.Linear(hidden, dim))

    def encode(self, times: Tensor, values: Tensor, mask: Tensor) -> Posterior:
        """Of z(0), from values [B, T, dim] at ascending times [T] where mask [B, T] is one; other values do not matter."""
        if values.dim() != 3 or values.shape[-1] != self.dim or values.shape[:2] != mask.shape:
            raise ValueError(
                f"LatentODE expects values [B, T, {self.dim}] and a mask [B, T], got {list(values.shape)} and "
                f"{list(mask.shape)}"
            )
        state = values.new_zeros(len(values), self.cell.hidden_size)
        times, later = times.to(values.dtype), times[-1].to(values.dtype).expand(len(values))
        for i in reversed(range(len(times))):
            observed = mask[:, i, None] > 0
            since = (later - times[i])[:, None]
            value = torch.where(observed, values[:, i], 0.0)
            state = torch.where(observed, self.cell(torch.cat([value, since], -1), state), state)
            later = torch.where(observed[:, 0], times[i], later)
        # how long before the first observation z(0) is
        state = self.cell(torch.cat([values.new_zeros(len(values), self.dim), later[:, None]], -1), state)
        mean, log_scale = self.posterior(state).chunk(2, -1)
        return Posterior(mean, log_scale)

    def decode(self, start: Tensor, times: Tensor) -> Tensor:
        """Observations [B, T, dim] without noise at ascending times [T] > 0, from z(0) [B, latent]."""
        path = self.flow(start, torch.cat([times.new_zeros(1), times]))[1:]  # [T, B, latent]
        return self.decoder(path).transpose(0, 1)
