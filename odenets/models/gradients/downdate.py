"""Keep what a step changed instead of the state it changed: delta blocks and blocks of streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from odenets.blocks import Block
from odenets.blocks.flow_block import FlowBlock
from odenets.flows import DeltaFlow, StreamFlow
from odenets.flows.linear import Undo
from odenets.models.block_step import BlockStep
from odenets.models.gradients.tape import Again, Kept, Memory, TapedGradient


@dataclass(frozen=True)
class Downdate(TapedGradient):
    """Memory D + a, and per token and step d + d_v numbers (delta) or C + n^2 + n (streams) where a state has d d_v or
    n C; for one more evaluation of the step.

    A delta step X+ = X + k w^T is undone by its own k and w, up to one rounding a step whatever the gate. A mixing of
    streams X+ = R X + u v^T is undone by R^{-1}, for backward Euler I - hG without a solve; that amplifies rounding
    errors by up to its largest row sum, 1 + 2 h max|G_ii|. A state is kept, and the count begins anew, wherever the
    product of these would exceed `growth`. To know it the host reads one number per step of streams; `every` instead
    keeps states at fixed distances and reads nothing.

    Args:
        growth: bound on the amplification of rounding errors between two kept states.
        every: keep the state before every so many steps, and none for growth.
    """

    growth: float = 100.0
    every: int | None = None

    name: ClassVar[str] = "downdate"

    def __post_init__(self) -> None:
        if not self.growth >= 1 or (self.every is not None and self.every < 1):
            raise ValueError(f"Downdate expects growth >= 1 and every >= 1, got {self.growth} and {self.every}")

    def check(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            if not isinstance(block, FlowBlock) or not isinstance(block.flow, (DeltaFlow, StreamFlow)):
                raise ValueError(
                    "gradient=downdate needs blocks with little to undo (delta, hyper_connections, "
                    f"manifold_hyper_connections), got {type(block).__name__}; take one of those, or "
                    "gradient=checkpoint"
                )

    def memory(self, count: int) -> Memory:
        return _Undos(self.growth, self.every)


class _Undos(Memory):
    def __init__(self, growth: float, every: int | None) -> None:
        self.growth, self.every = growth, every
        self.kept: dict[int, Undo | Kept] = {}
        self.amplification = 1.0

    def advance(self, n: int, step: BlockStep, state: Tensor) -> Tensor:
        new, undo = step.call("forward_and_undo", state)
        self.kept[n] = Kept(state) if self._is_due(n, undo) else undo
        return new

    def rebuild(self, n: int, step: BlockStep, after: Tensor, again: Again) -> Tensor:
        kept = self.kept[n]
        return kept.get() if isinstance(kept, Kept) else kept(after)

    def _is_due(self, n: int, undo: Undo) -> bool:
        if self.every is not None:
            return n > 0 and n % self.every == 0
        self.amplification *= float(undo.amplification)
        if self.amplification <= self.growth:  # false for NaN: a mixing that has no inverse
            return False
        self.amplification = 1.0
        return True
