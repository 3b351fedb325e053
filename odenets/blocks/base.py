"""What every block is: one step of a numerical scheme, as a module."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn


class Block(nn.Module, ABC):
    """One step `x(t) -> x(t + h)` of a scheme on a flow, shape-preserving.

    A stack calls `lift` once, every block's `forward` in turn, and `readout` once. A block whose state is larger than
    the activation (several streams, a value matrix, a momentum) overrides those two; for all others they are the
    identity. A new block is one file with one subclass.

    Attributes:
        needs: names of further inputs, such as token ids, that `forward` takes by keyword; a stack passes them on from
            its own `context`.
    """

    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def forward(self, t: Tensor | float, x: Tensor, h: Tensor | float) -> Tensor:
        """The state after a step of size h from the state x at time t; both have the same shape.

        t and h are floats, 0-dim tensors, or one value per sample [B] with x [B, ...].
        """

    def lift(self, x: Tensor) -> Tensor:
        """The initial state of the flow for the input x."""
        return x

    def readout(self, state: Tensor) -> Tensor:
        """The output for a state of the flow, with the shape the input had."""
        return state

    def place(self, index: int, count: int) -> None:
        """Told once by the stack, at construction: this is block number index of count.

        For blocks whose initialisation depends on depth (the hyper-connection that reads stream k mod n), or that own
        weights for `lift` and `readout`, which a stack asks of its first and its last block.
        """
