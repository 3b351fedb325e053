"""Binomial checkpointing: a few states kept, the others recomputed from them as often as that takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from odenets.models.block_step import BlockStep
from odenets.models.gradients.tape import Again, Kept, Memory, TapedGradient
from odenets.solvers.gradients.binomial import split


@dataclass(frozen=True)
class Recursive(TapedGradient):
    """Memory (slots + 1) D + a; N steps cost at most r N further evaluations where N <= C(slots + r, r).

    Griewank, Walther, "Algorithm 799: revolve", ACM TOMS 26 (2000): states are kept at binomial distances, and every
    slot that the backward pass sets free is used again for a state nearer to where it stands.

    Args:
        slots: states kept at a time; None takes ceil(log2 N) + 1.
    """

    slots: int | None = None

    name: ClassVar[str] = "recursive"
    needs_after: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.slots is not None and self.slots < 1:
            raise ValueError(f"Recursive expects slots >= 1 states, got {self.slots}")

    def memory(self, count: int) -> Memory:
        return _Snapshots(count, self.slots or math.ceil(math.log2(max(count, 2))) + 1)


class _Snapshots(Memory):
    def __init__(self, count: int, slots: int) -> None:
        self.count, self.slots = count, slots
        self.kept: list[tuple[int, Kept]] = []  # (n, state before step n), rising
        self.due = 0

    def advance(self, n: int, step: BlockStep, state: Any) -> Any:
        self.due = self._keep_if_due(n, self.due, self.count, state)
        return step(state)

    def rebuild(self, n: int, step: BlockStep, after: Any, again: Again) -> Any:
        position, kept = self.kept[-1]
        state, due = kept.get(), position
        while position < n:
            due = self._keep_if_due(position, due, n + 1, state)
            state = again(position, state)
            position += 1
        if n and self.kept[-1][0] == n:  # the first stays: from it all can be had again
            self.kept.pop()
        return state

    def _keep_if_due(self, n: int, due: int, end: int, state: Any) -> int:
        """Keep the state before step n if it is due; returns where the next one is due, of the steps up to `end`."""
        if n != due:
            return due
        if not self.kept or self.kept[-1][0] != n:
            self.kept.append((n, Kept(state)))
        left, free = end - n, self.slots - len(self.kept)
        return n + split(left, free + 1) if free and left > 1 else end
