"""A stack seen step by step: each step's time, size, block, state and map."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from odenets.blocks import Block, ImplicitEuler, RungeKuttaBlock
from odenets.models import FlowStack
from odenets.models.varying_block import VaryingBlock


@dataclass(frozen=True)
class Step:
    """One step of a stack on one batch.

    Attributes:
        index: n.
        t, h: where it starts and its size.
        block: the block that makes it; of a block whose parameters vary in time, the one they are put into.
        state: the state it starts from, detached.
        map: the step as a function of the state.
        weights: the block's parameters at t, by name.
        call: `call(name, *args)` calls a method of the block, such as "field" or "flow.freeze", with the parameters
            that hold at t.
    """

    index: int
    t: float
    h: float
    block: Block
    state: Any
    map: Callable[[Any], Any]
    weights: dict[str, Tensor]
    call: Callable[..., Any]

    @property
    def has_field(self) -> bool:
        """Whether the block knows the vector field it steps along."""
        return has_field(self.block)

    def field(self, state: Any) -> Any:
        """The vector field at time t."""
        return self.call("field", self.t, state)


def has_field(block: Block) -> bool:
    """Whether `block.field(t, x)` is the vector field of the block's flow; some keep a branch by that name."""
    block = getattr(block, "template", block)
    known = callable(getattr(type(block), "field", None)) or isinstance(block, (RungeKuttaBlock, ImplicitEuler))
    return known and not is_step_map(block)


def is_step_map(block: Block) -> bool:
    """Whether the block's mixing is the step itself whatever h is (Sinkhorn's), so that it is no flow's."""
    return getattr(block, "parametrisation", None) == "sinkhorn"


@torch.no_grad()
def trace(stack: FlowStack, x: Tensor, context: Mapping[str, Tensor] | None = None) -> list[Step]:
    """The steps of the stack for an input x [B, ...], with the states they start from."""
    state: Any = stack.block(0).lift(x)
    steps = []
    for n, ((t, h), step) in enumerate(zip(stack.schedule(x), stack.steps(x, context))):
        block, weights, call = bound(stack.block(n), t)
        state = tree_map(torch.detach, state)
        steps.append(Step(n, float(t), float(h), block, state, step, weights, call))
        state = step(state)
    return steps


@torch.no_grad()
def states(stack: FlowStack, x: Tensor, context: Mapping[str, Tensor] | None = None) -> list[Any]:
    """The states at t_0 .. t_N, whatever the blocks make of them, detached."""
    steps = trace(stack, x, context)
    return [*(step.state for step in steps), tree_map(torch.detach, steps[-1].map(steps[-1].state))]


def bound(block: Block, t: Tensor) -> tuple[Block, dict[str, Any], Callable[..., Any]]:
    """A block at time t: itself, its parameters, and how to call its methods with them."""
    if not isinstance(block, VaryingBlock):
        return block, dict(block.named_parameters()), lambda name, *args: operator.attrgetter(name)(block)(*args)
    template, weights = block.template, block.varying.weights(t)
    methods, inside = _Methods(template), {f"block.{name}": w for name, w in weights.items()}
    return template, weights, lambda name, *args: functional_call(methods, inside, (name, *args))


class _Methods(nn.Module):
    """Every method of a block as a module's forward, which is all that `functional_call` calls."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, name: str, *args: Any) -> Any:
        return operator.attrgetter(name)(self.block)(*args)
