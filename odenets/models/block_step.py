"""One step of a stack: a block with its time, step size and further inputs, as a function of the state alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.func import functional_call

from odenets.blocks import Block
from odenets.models.varying_block import Method, VaryingBlock


@dataclass(frozen=True)
class BlockStep:
    """state -> state after the step.

    Attributes:
        block: whose step it is.
        t, h: start and size of the step; tensors where they carry gradients.
        inputs: the further inputs that the block needs, by name.
        weights: what to put in the place of the block's parameters, by name; None leaves them.
    """

    block: Block
    t: Tensor
    h: Tensor | float
    inputs: dict[str, Tensor]
    weights: dict[str, Tensor] | None = None

    def __call__(self, state: Any) -> Any:
        if self.weights is None:
            return self.block(self.t, state, self.h, **self.inputs)
        return functional_call(self.block, self.weights, (self.t, state, self.h), self.inputs)

    def call(self, method: str, *arguments: Any) -> Any:
        """Another method of the block, `method(t, *arguments, h)`, with the same parameters as the step."""
        if isinstance(self.block, VaryingBlock):
            return self.block.call(method, self.t, *arguments, self.h)
        if self.weights is None:
            return getattr(self.block, method)(self.t, *arguments, self.h)
        weights = {f"block.{name}": w for name, w in self.weights.items()}
        return functional_call(Method(self.block, method), weights, (self.t, *arguments, self.h))

    @property
    def template(self) -> Block:
        """The block that does the work, which a `VaryingBlock` holds inside."""
        return template(self.block)

    def tensors(self) -> tuple[Tensor, ...]:
        """What the step depends on besides the state and requires grad, each once."""
        own = self.block.parameters() if self.weights is None else self.weights.values()
        found = [*own, self.t, *self.inputs.values()]
        if isinstance(self.h, Tensor):
            found.append(self.h)
        return tuple({id(x): x for x in found if x.requires_grad}.values())


def template(block: Any) -> Block:
    """The block itself, or the one inside a `VaryingBlock`."""
    return block.template if isinstance(block, VaryingBlock) else block
