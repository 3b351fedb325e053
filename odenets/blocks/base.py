"""What every block is: one step of a numerical scheme, as a module."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from odenets.fields.time import expand_time


class Block(nn.Module, ABC):
    """One step `x(t) -> x(t + h)` of a scheme on a flow.

    A stack calls `lift` once, every block's `forward` in turn, and `readout` once. The state is whatever `lift` makes:
    the activation itself, a larger tensor (several streams, a value matrix) or a tuple of tensors (position and
    velocity, a history of earlier states). A block whose state is not the activation overrides both; for all others
    they are the identity. A new block is one file with one subclass.

    Attributes:
        needs: names of further inputs, such as token ids, that `forward` takes by keyword; a stack passes them on from
            its own `context`.
    """

    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def forward(self, t: Tensor | float, x: Any, h: Tensor | float) -> Any:
        """The state after a step of size h from the state x at time t, of the same kind.

        t and h are floats, 0-dim tensors, or one value per sample [B] with tensors [B, ...].
        """

    def lift(self, x: Tensor) -> Any:
        """The initial state of the flow for the input x."""
        return x

    def readout(self, state: Any) -> Tensor:
        """The output for a state of the flow, with the shape the input had."""
        return state

    def place(self, index: int, count: int) -> None:
        """Told once by the stack, at construction: this is block number index of count.

        For blocks whose initialisation depends on depth (the hyper-connection that reads stream k mod n), or that own
        weights for `lift` and `readout`, which a stack asks of its first and its last block.
        """


class RelayBlock(Block):
    """A block whose step, while the new state is at hand, can also compute what the step after it reads of it first:
    its `reading`. On a GPU that saves a pass over the state every step; a stack uses it there, and `forward` elsewhere.
    """

    @abstractmethod
    def relays_to(self, following: Block) -> bool:
        """Whether a step of this block can compute the reading of a step of the following one."""

    @abstractmethod
    def relay(
        self, t: Tensor | float, x: Tensor, h: Tensor | float, reading: Any, following: Any
    ) -> tuple[Tensor, Any]:
        """`forward`, given its reading of x or None, with the reading of the new state that the following block wants;
        None for following None."""


class ReversibleBlock(Block):
    """A block whose step can be undone in closed form, so that no state need be kept for the backward pass.

    Attributes:
        branches: names of the submodules that `forward` calls, as f(t, z), and that `inverse` calls at the same points
            in the opposite order: the backward pass then evaluates them once for both. Leave it empty if that does not
            hold.
    """

    branches: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def inverse(self, t: Tensor | float, x: Any, h: Tensor | float) -> Any:
        """The state at time t from the state x at time t + h: undoes `forward(t, ., h)` up to rounding."""


def step_size(h: Tensor | float, x: Tensor) -> Tensor | float:
    """h shaped and typed to multiply x [B, ...]: a float stays one, [B] becomes [B, 1, ..., 1]."""
    return expand_time(h, x).to(x.dtype) if isinstance(h, Tensor) else h
