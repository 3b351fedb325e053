"""Lynx and hare pelts traded by the Hudson Bay Company, 1900 to 1920, in thousands.

Source: the yearly counts digitised from E. P. Odum, "Fundamentals of Ecology" (Saunders, 1953) after D. A. MacLulich
(1937), as tabulated by J. M. Mahaffy and used in B. Carpenter, "Predator-Prey Population Dynamics: the Lotka-Volterra
model in Stan" (Stan case study, 2018). Pelts are a proxy for the populations, not a census.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# fmt: off
YEARS = range(1900, 1921)
HARE = (30.0, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22.0, 25.4, 27.1,
        40.3, 57.0, 76.6, 52.3, 19.5, 11.2, 7.6, 14.6, 16.2, 24.7)
LYNX = (4.0, 6.1, 9.8, 35.2, 59.4, 41.7, 19.0, 13.0, 8.3, 9.1, 7.4,
        8.0, 12.3, 19.5, 45.7, 51.1, 29.7, 15.8, 9.7, 10.1, 8.6)
# fmt: on


@dataclass(frozen=True)
class Series:
    """One measured trajectory: `values` [T, d] at `times` [T] (starting at 0), with what to write on the axes."""

    times: Tensor
    values: Tensor
    names: tuple[str, ...]
    unit: str
    time_unit: str
    origin: float  # the calendar value of time 0

    def to(self, device: torch.device) -> "Series":
        """The same series on another device."""
        return replace(self, times=self.times.to(device), values=self.values.to(device))


@dataclass(frozen=True)
class LynxHare:
    """The two counts, prey first: state (hare, lynx), as in `LotkaVolterra`."""

    def load(self) -> Series:
        """Values [21, 2] in thousands of pelts, times [21] in years since 1900."""
        return Series(
            times=torch.arange(len(YEARS), dtype=torch.float32),
            values=torch.tensor([HARE, LYNX], dtype=torch.float32).T.contiguous(),
            names=("hare", "lynx"),
            unit="thousands of pelts",
            time_unit="year",
            origin=float(YEARS[0]),
        )
