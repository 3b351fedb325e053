"""The protocol of a stack's gradient method, and the plain one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from odenets.blocks import Block
from odenets.models.block_step import BlockStep


class StackGradient(ABC):
    """How a stack of blocks is differentiated. Subclasses are frozen dataclasses of their settings.

    All methods give the gradient of the same forward pass, up to rounding; they differ in what they keep of it and in
    what they evaluate again. Evaluated again are the branches too, with the same dropout masks and under the same
    autocast; buffers that the forward pass changed (running statistics) are left as it left them.

    Attributes:
        name: as in `gradient=`.
    """

    name: ClassVar[str]

    @abstractmethod
    def run(self, steps: Iterable[BlockStep], state: Any) -> Any:
        """The state after all steps, differentiable in the state and in all that the steps depend on."""

    def check(self, blocks: Sequence[Block]) -> None:  # noqa: B027
        """Raise ValueError if the method cannot be used with these blocks, naming what it needs."""


@dataclass(frozen=True)
class Autograd(StackGradient):
    """Keeps every step's graph: N (D + a) for N steps, D the state and a what is kept inside a block."""

    name: ClassVar[str] = "autograd"

    def run(self, steps: Iterable[BlockStep], state: Any) -> Any:
        return taken(steps, state)


def taken(steps: Iterable[BlockStep], state: Any) -> Any:
    """The state after all steps. Where kernels allow it, a step gives the next one its reading of the new state."""
    reading = None
    for step, following in _with_next(steps):
        onward = following if step.relays_to(following, state) else None
        if reading is None and onward is None:
            state = step(state)
        else:
            state, reading = step.relay(state, reading, onward)
    return state


def _with_next(steps: Iterable[BlockStep]) -> Iterator[tuple[BlockStep, BlockStep | None]]:
    """Every step with the one after it, None after the last."""
    step = None
    for following in steps:
        if step is not None:
            yield step, following
        step = following
    if step is not None:
        yield step, None
