"""Keep the state every few steps, and compute the steps between them a second time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.utils.checkpoint import checkpoint

from odenets.models.block_step import BlockStep
from odenets.models.gradients.base import StackGradient, taken
from odenets.models.gradients.surroundings import BuffersKept


@dataclass(frozen=True)
class Checkpoint(StackGradient):
    """Memory N/every D + every (D + a), for one more forward pass. Higher derivatives work.

    Chen, Xu, Zhang, Guestrin, "Training deep nets with sublinear memory cost" (2016, arXiv:1604.06174).

    Args:
        every: steps between the states that are kept; None takes about sqrt(N).
    """

    every: int | None = None

    name: ClassVar[str] = "checkpoint"

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(f"Checkpoint expects every >= 1 steps, got {self.every}")

    def run(self, steps: Iterable[BlockStep], state: Any) -> Any:
        steps = list(steps)
        every = self.every or max(1, round(len(steps) ** 0.5))
        for start in range(0, len(steps), every):
            segment = steps[start : start + every]
            state = _recomputed(segment, state) if torch.is_grad_enabled() else taken(segment, state)
        return state


def _recomputed(steps: Sequence[BlockStep], state: Any) -> Any:
    def contexts() -> Any:
        return nullcontext(), BuffersKept(step.block for step in steps)

    return checkpoint(taken, steps, state, use_reentrant=False, context_fn=contexts)
