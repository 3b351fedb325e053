"""One step of a stack: a block with its time, step size and further inputs, as a function of the state alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from odenets.blocks import Block
from odenets.blocks.base import RelayBlock
from odenets.kernels.backend import fused
from odenets.models.compiled_step import compiled_step
from odenets.models.varying_block import Method, VaryingBlock


@dataclass(frozen=True, eq=False)  # hashed as what it is: the compiler asks before the fields are there
class BlockStep:
    """state -> state after the step.

    Attributes:
        block: whose step it is.
        t, h: start and size of the step; tensors where they carry gradients.
        inputs: the further inputs that the block needs, by name.
        weights: what to put in the place of the block's parameters, by name; None leaves them.
        compiled: whether the step runs as a compiled program.
    """

    block: Block
    t: Tensor
    h: Tensor | float
    inputs: dict[str, Tensor]
    weights: dict[str, Tensor] | None = None
    compiled: bool = False

    def __call__(self, state: Any) -> Any:
        if self.compiled and self.weights is None and not torch.compiler.is_compiling():
            return compiled_step(self.block, self.t, state, self.h, self.inputs)
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

    def relays_to(self, following: BlockStep | None, state: Any) -> bool:
        """Whether `relay` can give the following step its reading of the state: on a device with kernels, between plain
        blocks whose own parts nobody listens to."""
        if following is None or self.compiled or not isinstance(state, Tensor) or not fused(state):
            return False
        block, other = self.block, following.block
        if not isinstance(block, RelayBlock) or self.weights is not None or following.weights is not None:
            return False
        return block.relays_to(other) and not (_listened_to(block) or _listened_to(other))

    def relay(self, state: Tensor, reading: Any, following: BlockStep | None) -> tuple[Tensor, Any]:
        """The state after the step and the following step's reading of it; see `RelayBlock`."""
        return self.block.relay(  # type: ignore[operator,no-any-return]
            self.t, state, self.h, reading, None if following is None else following.block
        )

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


def _listened_to(block: Any) -> bool:
    """Whether hooks wait for calls that `relay` does not make: of the block, its flow, its coefficients."""
    parts = (block, block.flow, block.flow.coefficients)
    return any(part._forward_hooks or part._forward_pre_hooks for part in parts)
