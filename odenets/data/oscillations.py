"""Damped oscillations, each looked at with noise and at its own irregular times."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from odenets.errors import UserError


@dataclass(frozen=True)
class IrregularSeries:
    """Series over common times of which each was observed at some.

    `times` [T] ascending, the first `seen` of them in the half that an encoder may look at; `train` [n, T, d] and
    `test` [m, T, d] with noise, zero where not observed, and `train_mask`, `test_mask` [., T], one where observed;
    `true` [m, T, d], the test series without noise at all times; `noise`, its standard deviation.
    """

    times: Tensor
    seen: int
    train: Tensor
    train_mask: Tensor
    test: Tensor
    test_mask: Tensor
    true: Tensor
    noise: float

    def to(self, device: torch.device) -> "IrregularSeries":
        """The same series on another device."""
        names = ("times", "train", "train_mask", "test", "test_mask", "true")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@dataclass(frozen=True)
class DampedOscillations:
    """`a exp(-0.1 t) cos(omega t + phase)` with a in (0.5, 1.5), omega in (1, 2) and any phase, over 0 < t < `span`.

    There are `grid` random times, and each series is observed at a random half of them: no two series at the same.
    `held_out` further series are for the test. The same for the same `seed`.
    """

    series: int = 1000
    held_out: int = 100
    grid: int = 60
    span: float = 10.0
    noise: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.series, self.held_out) < 1 or self.grid < 12 or not self.span > 0 or not self.noise > 0:
            raise UserError(
                "data: expected series >= 1, held_out >= 1, grid >= 12, span > 0 and noise > 0, got "
                f"{self.series}, {self.held_out}, {self.grid}, {self.span} and {self.noise}"
            )

    def load(self) -> IrregularSeries:
        """Draw times, series and observations."""
        generator = torch.Generator().manual_seed(self.seed)
        times = self.span * torch.rand(self.grid, generator=generator, dtype=torch.float64).sort().values
        count = self.series + self.held_out
        size, rate, phase = torch.rand(3, count, 1, generator=generator, dtype=torch.float64)
        true = (0.5 + size) * (-0.1 * times).exp() * ((1 + rate) * times + 2 * torch.pi * phase).cos()
        noisy = true + self.noise * torch.randn(true.shape, generator=generator, dtype=true.dtype)
        order = torch.rand(count, self.grid, generator=generator).argsort(-1).argsort(-1)
        mask = (order < self.grid // 2).float()
        values = (noisy.float() * mask)[..., None]
        n, seen = self.series, int((times < self.span / 2).sum())
        held = true[n:, :, None].float()
        return IrregularSeries(times, seen, values[:n], mask[:n], values[n:], mask[n:], held, self.noise)
