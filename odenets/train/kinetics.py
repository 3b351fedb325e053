"""Fit concentrations whose sizes differ by orders of magnitude, at times that do too."""

from typing import Any

import torch
from torch import Tensor, nn

from odenets.data import Series
from odenets.errors import UserError
from odenets.train.task import Task


class KineticsFit(Task):
    """Mean square of the difference between computed and given trajectory, each species over its range.

    `network(x0, ts) -> [T, B, d]` computes the trajectory of x, the species divided by their ranges, from the given
    start. So all species count alike, and with logarithmically spaced times all time scales (Kim, Ji, Deng, Ma and
    Rackauckas, Chaos 31, 093122, 2021).
    Use it in float64 (trainer.precision=64-true).
    """

    headline = ("scaled_rmse",)

    def __init__(self, network: nn.Module, steps_per_epoch: int = 10, dim: int = 3) -> None:
        super().__init__()
        if steps_per_epoch < 1:
            raise UserError(f"task.steps_per_epoch: expected at least 1, got {steps_per_epoch}")
        self.network = network
        self.steps_per_epoch = steps_per_epoch
        self.dim = dim

    def attach(self, data: Any) -> None:
        if not isinstance(data, Series):
            raise UserError(f"task=kinetics needs a series such as data=robertson, got {type(data).__name__}")
        if data.values.shape[1] != self.dim:
            raise UserError(f"task.dim: expected {data.values.shape[1]}, the data's dimension, got {self.dim}")
        self.data = data
        self.range = data.values.amax(0) - data.values.amin(0)  # [d]
        self.scaled = data.values / self.range  # [T, d]

    def order(self, generator: torch.Generator, batch_size: int, rank: int, world: int) -> list[Tensor]:
        return [torch.empty(0)] * self.steps_per_epoch

    def select(self, index: Tensor) -> tuple[Tensor, ...]:
        return ()

    def difference(self) -> Tensor:
        """Computed minus given, over the ranges [T, d]."""
        start = self.scaled[:1].to(next(self.network.parameters()).dtype)
        return self.network(start, self.data.times)[:, 0] - self.scaled

    def forward(self, progress: float) -> Tensor:
        return self.difference().square().mean()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        error = self.difference()
        each = {f"largest_error_{name}": float(e) for name, e in zip(self.data.names, error.abs().amax(0))}
        return {"scaled_rmse": float(error.square().mean().sqrt())} | each
