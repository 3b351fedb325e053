"""What an ensemble's program is given, and what it fills in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SETTINGS = ("direction", "min_step", "max_step", "max_steps", "first_step", "epsilon", "precision", "kappa")


@dataclass
class Inputs:
    """Numbers of one solve.

    Attributes:
        ts: output times [T] or [batch, T], float64, in walking order.
        y0: starts [batch, D].
        each: parameters of every trajectory [batch, P].
        common: shared parameters, then rtol [D], then atol [D].
        settings: the numbers of `SETTINGS`: first_step is 0 where it is to be chosen, epsilon the times' resolution,
            precision the states', kappa the share of the tolerance that an iteration may leave.
        rules: per event its direction, the crossing that ends the solve (0: none), its limit; int64 [E, 3].
    """

    ts: Tensor
    y0: Tensor
    each: Tensor
    common: Tensor
    settings: dict[str, float]
    rules: Tensor


@dataclass
class Buffers:
    """What comes out: NaN where a trajectory did not arrive.

    Attributes:
        ys: [T, batch, D].
        zs: derivatives [T, batch, D, S].
        last: state at the end of each solve [batch, D].
        end: its time [batch].
        status, accepted, rejected, updates: [batch], float64; updates are those of an iteration inside the steps.
        event_ts: [E, capacity, batch]; event_ys [E, capacity, batch, D]; event_counts [E, batch], int64.
    """

    ys: Tensor
    zs: Tensor
    last: Tensor
    end: Tensor
    status: Tensor
    accepted: Tensor
    rejected: Tensor
    updates: Tensor
    event_ts: Tensor
    event_ys: Tensor
    event_counts: Tensor

    @classmethod
    def empty(cls, inputs: Inputs, directions: int, capacity: int) -> Buffers:
        y0, times, events = inputs.y0, inputs.ts.shape[-1], len(inputs.rules)
        batch, size = y0.shape

        def of(*shape: int, dtype: torch.dtype = y0.dtype) -> Tensor:
            return torch.full(shape, torch.nan, dtype=dtype, device=y0.device)

        end, status, accepted, rejected, updates = of(5, batch, dtype=torch.float64).unbind()
        return cls(
            of(times, batch, size), of(times, batch, size, directions), of(batch, size), end, status, accepted, rejected,
            updates, of(events, capacity, batch, dtype=torch.float64), of(events, capacity, batch, size),
            torch.zeros(events, batch, dtype=torch.int64, device=y0.device),
        )  # fmt: skip

    def named(self) -> dict[str, Tensor]:
        return vars(self)
