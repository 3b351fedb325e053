"""An initial value problem without measurements: where a field is to be solved, from which state, at which times."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class InitialValueProblem:
    """Start and times; what is null comes from the field: `initial` and `span`, as the systems of odenets.fields have.

    Args:
        start: the state at t0, one number per component.
        t0, t1: the interval.
        points: times at which the solution is wanted after t0; fixed-step methods without a step size of their own take
            one step to each.
        spacing: "linear", or "log" with the first time `first` after t0.
        first: see spacing.
    """

    start: Sequence[float] | None = None
    t0: float | None = None
    t1: float | None = None
    points: int = 200
    spacing: Literal["linear", "log"] = "linear"
    first: float = 1e-3

    def __post_init__(self) -> None:
        if self.points < 1:
            raise ValueError(f"expected at least 1 point, got points={self.points}")
        if self.spacing not in ("linear", "log"):
            raise ValueError(f"spacing= takes linear or log, got {self.spacing!r}")

    def load(self) -> "InitialValueProblem":
        """Itself: there is nothing to read."""
        return self

    def to(self, device: Any) -> "InitialValueProblem":
        """Itself: states and times are made where the field is."""
        return self

    def state(self, field: nn.Module) -> Tensor:
        """The start [1, d], float64. ValueError if neither the problem nor the field says it."""
        start = self.start if self.start is not None else getattr(field, "initial", None)
        if start is None:
            raise ValueError(
                f"data.start: expected the state at t0, such as [1.0, 0.0]: {type(field).__name__} has no `initial`"
            )
        return torch.tensor([[float(x) for x in start]], dtype=torch.float64)

    def times(self, field: nn.Module) -> Tensor:
        """t0 and the points after it [1 + points], float64. ValueError if there is no interval."""
        t0, t1 = getattr(field, "span", (0.0, None))
        t0, t1 = (self.t0 if self.t0 is not None else t0), (self.t1 if self.t1 is not None else t1)
        if t1 is None:
            raise ValueError(f"data.t1: expected the end of the interval: {type(field).__name__} has no `span`")
        if t0 == t1 or not (math.isfinite(t0) and math.isfinite(t1)):
            raise ValueError(f"expected two different finite times, got t0={t0:g}, t1={t1:g}")
        if self.spacing == "linear":
            return torch.linspace(t0, t1, self.points + 1, dtype=torch.float64)
        if not 0 < self.first < abs(t1 - t0) or self.points < 2:
            raise ValueError(
                f"spacing=log: expected at least 2 points and 0 < first < {abs(t1 - t0):g}, "
                f"got points={self.points}, first={self.first:g}"
            )
        after = torch.logspace(math.log10(self.first), math.log10(abs(t1 - t0)), self.points, dtype=torch.float64)
        times = torch.cat([after.new_tensor([t0]), t0 + math.copysign(1.0, t1 - t0) * after])
        times[-1] = t1  # not rounded by the logarithm
        return times
