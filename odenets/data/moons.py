"""Two interleaved half circles with noise, from scikit-learn: a density with two separate curved ridges."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from odenets.errors import UserError


@dataclass(frozen=True)
class Points:
    """Independent samples of one distribution, `train` [n, d] and held-out `test` [m, d], float32, with zero mean and
    unit variance of each coordinate over the training set."""

    train: Tensor
    test: Tensor

    def to(self, device: torch.device) -> "Points":
        """The same points on another device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


@dataclass(frozen=True)
class Moons:
    """`samples` points of scikit-learn's `make_moons` (unit circles) with normal noise of standard deviation `noise`;
    a fraction `held_out` (0 < held_out < 1) is kept for the test, the same for the same `seed`."""

    samples: int = 5000
    noise: float = 0.1
    held_out: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise UserError(f"data.held_out: expected a fraction between 0 and 1, got {self.held_out}")
        if self.samples < 10 or self.noise < 0:
            raise UserError(f"data: expected samples >= 10 and noise >= 0, got {self.samples} and {self.noise}")

    def load(self) -> Points:
        """Draw, split and scale."""
        from sklearn.datasets import make_moons

        points = torch.tensor(make_moons(self.samples, noise=self.noise, random_state=self.seed)[0])  # shuffled
        kept = self.samples - round(self.held_out * self.samples)
        train, test = points[:kept], points[kept:]
        mean, scale = train.mean(0), train.std(0)
        return Points(((train - mean) / scale).float(), ((test - mean) / scale).float())
