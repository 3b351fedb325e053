"""Simulated swings of a pendulum, measured with noise."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from odenets.errors import UserError

GRAVITY = 1.0  # over the length: time in units of sqrt(length / gravity)


@dataclass(frozen=True)
class Swings:
    """Trajectories of states (angle, angular speed): `train` [n, T, 2] with noise and `test` [m, S, 2] without, S > T,
    both at multiples of `step`, in units of sqrt(length/gravity)."""

    step: float
    train: Tensor
    test: Tensor

    def to(self, device: torch.device) -> "Swings":
        """The same trajectories on another device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    @staticmethod
    def energy(x: Tensor) -> Tensor:
        """`omega^2 / 2 + 1 - cos(theta)` [...] of x [..., 2]: what the true pendulum keeps."""
        return x[..., 1].square() / 2 + 1 - x[..., 0].cos()


@dataclass(frozen=True)
class PendulumSwings:
    """Swings with amplitudes from 0.3 to 2.2 rad, integrated by scipy's DOP853 to 1e-10.

    `trajectories` noisy ones of `points` samples every `step`, and 16 without noise that are `longer` times as long.
    """

    trajectories: int = 50
    points: int = 41
    step: float = 0.2
    noise: float = 0.05
    longer: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.trajectories, self.longer) < 1 or self.points < 2 or not self.step > 0 or self.noise < 0:
            raise UserError(
                "data: expected trajectories >= 1, points >= 2, step > 0, noise >= 0 and longer >= 1, got "
                f"{self.trajectories}, {self.points}, {self.step}, {self.noise} and {self.longer}"
            )

    def load(self) -> Swings:
        """Simulate and add noise, the same for the same `seed`."""
        generator = torch.Generator().manual_seed(self.seed)
        train = self._simulate(self.trajectories, self.points, generator)
        test = self._simulate(16, self.longer * (self.points - 1) + 1, generator)
        noisy = train + self.noise * torch.randn(train.shape, generator=generator, dtype=train.dtype)
        return Swings(self.step, noisy.float(), test.float())

    def _simulate(self, count: int, points: int, generator: torch.Generator) -> Tensor:
        import numpy as np
        from scipy.integrate import solve_ivp

        amplitude, phase = torch.rand(2, count, generator=generator, dtype=torch.float64)
        amplitude, phase = 0.3 + 1.9 * amplitude, 2 * torch.pi * phase
        start = torch.cat([amplitude * phase.cos(), amplitude * phase.sin() * 0.9])  # [2 count]
        times = self.step * np.arange(points)
        solved = solve_ivp(
            lambda t, y: np.concatenate([y[count:], -GRAVITY * np.sin(y[:count])]),
            (0.0, times[-1]), start.numpy(), t_eval=times, method="DOP853", rtol=1e-10, atol=1e-10,
        )  # fmt: skip
        return torch.from_numpy(solved.y.reshape(2, count, points).transpose(1, 2, 0).copy())
