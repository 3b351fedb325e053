"""Robertson's stiff reaction, computed: concentrations at logarithmically spaced times."""

import math
from dataclasses import dataclass

import torch

from odenets.data.lynx_hare import Series
from odenets.fields import Robertson
from odenets.solvers import solve


@dataclass(frozen=True)
class RobertsonKinetics:
    """The solution from (1, 0, 0), by Rodas5P at a relative tolerance of 1e-8.

    Args:
        points: times after 0, of which the first is `first` and the last is `last`.
        k1, k2, k3: rates, see `Robertson`.
    """

    points: int = 50
    first: float = 1e-4
    last: float = 100.0
    k1: float = 0.04
    k2: float = 3e7
    k3: float = 1e4

    def load(self) -> Series:
        """Values [1 + points, 3] and times [1 + points] with 0 in front, float64. ValueError for times out of order."""
        if self.points < 2 or not 0 < self.first < self.last:
            raise ValueError(
                f"expected at least 2 points and 0 < first < last, got {self.points}, {self.first:g}, {self.last:g}"
            )
        times = torch.logspace(math.log10(self.first), math.log10(self.last), self.points, dtype=torch.float64)
        times = torch.cat([times.new_zeros(1), times])
        field = Robertson(self.k1, self.k2, self.k3)
        start = field.initial_state(dtype=torch.float64)
        with torch.no_grad():
            values = solve(field, start, times, solver="rodas5p", rtol=1e-8, atol=1e-13).ys
        return Series(times, values, Robertson.names, "concentration", "time", 0.0)
