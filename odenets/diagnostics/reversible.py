"""How well a reversible stack gets its inputs back."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from odenets.blocks import ReversibleBlock
from odenets.diagnostics.jacobian import flatten
from odenets.diagnostics.result import Result, host
from odenets.diagnostics.trace import states, trace
from odenets.models import FlowStack


@dataclass
class Reconstruction(Result):
    """Relative errors of the states recomputed backward from the end, the worst sample's.

    Attributes:
        single, double: [N+1], |x_n' - x_n| / |x_n| in float32 and in float64; the last entry is 0, the first says how
            well the whole stack is undone.
    """

    single: Tensor
    double: Tensor


def reconstruction(stack: FlowStack, x: Tensor, context: Mapping[str, Tensor] | None = None) -> Reconstruction:
    """Run the stack forward, undo its steps one by one, and compare with the states that were there.

    Raises:
        ValueError: a block without an inverse.
    """
    errors = [_errors(copy.deepcopy(stack).to(dtype), x.to(dtype), context) for dtype in (torch.float32, torch.float64)]
    return Reconstruction(*errors)


@torch.no_grad()
def _errors(stack: FlowStack, x: Tensor, context: Mapping[str, Tensor] | None) -> Tensor:
    steps = trace(stack, x, context)
    for step in steps:
        if not isinstance(step.block, ReversibleBlock):
            raise ValueError(f"{type(step.block).__name__} is not a reversible block: it has no inverse to be measured")
    state = states(stack, x, context)[-1]
    errors = [torch.zeros((), dtype=torch.float64)]
    for step in reversed(steps):
        state = step.call("inverse", step.t, state, step.h)
        true = flatten(step.state).double()
        error = (flatten(state).double() - true).norm(dim=1) / true.norm(dim=1)
        errors.append(host(error.max()))
    return torch.stack(errors[::-1])
