"""Are the weights a smooth function of depth?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from odenets.diagnostics.result import Result, host
from odenets.models import FlowStack
from odenets.models.varying_block import VaryingBlock


@dataclass
class WeightSmoothness(Result):
    """Relative changes of the weights from a step to the next one of its kind.

    |theta_{n+1} - theta_n| / rms(|theta_n|, |theta_{n+1}|): 0 for constant weights, proportional to h where they are
    samples of a smooth function of time (Sander, Ablin, Peyre 2022, arXiv:2205.14612), sqrt(2) where they are
    independent of each other with zero mean.

    Attributes:
        change: [kinds, N/kinds - 1], all parameters of a block together.
        by_name: the same, [N/kinds - 1], of every parameter by itself, named kind.parameter.
        mean: of `change`; 0 where there is a single step of each kind.
        of_independent: sqrt(2), to compare with.
    """

    change: Tensor
    by_name: dict[str, Tensor]
    mean: float
    of_independent: float


@torch.no_grad()
def weight_smoothness(stack: FlowStack) -> WeightSmoothness:
    """How much the weights of the stack change from step to step.

    Raises:
        ValueError: blocks without parameters.
    """
    kinds = [_along(stack, kind) for kind in range(stack.kinds)]  # per kind: name -> [cycles, numbers]
    if not any(kinds):
        raise ValueError(f"{type(stack.block(0)).__name__} has no parameters whose change over depth could be measured")
    changes, by_name = [], {}
    for kind, named in enumerate(kinds):
        for name, values in named.items():
            by_name[f"{kind}.{name}"] = _change(values)
        changes.append(_change(torch.cat(list(named.values()), dim=1)) if named else torch.zeros(0).double())
    change = torch.stack(changes)
    mean = float(change.mean()) if change.numel() else 0.0
    return WeightSmoothness(change, by_name, mean, 2**0.5)


def _along(stack: FlowStack, kind: int) -> dict[str, Tensor]:
    """Every parameter of the blocks of a kind over the cycles, flattened; those that not all blocks own left out."""
    blocks = [stack.block(n) for n in range(kind, stack.N, stack.kinds)]
    if isinstance(blocks[0], VaryingBlock):
        times = [torch.tensor(t) for t in stack.times[kind : stack.N : stack.kinds]]
        weights = [blocks[0].varying.weights(t) for t in times]
    else:
        weights = [dict(block.named_parameters()) for block in blocks]
    shared = [name for name in weights[0] if all(name in w for w in weights)]
    return {name: host(torch.stack([w[name].flatten() for w in weights])).double() for name in shared}


def _change(values: Tensor) -> Tensor:
    squares = values.square().sum(1)
    size = ((squares[1:] + squares[:-1]) / 2).sqrt()
    difference = values.diff(dim=0).norm(dim=1)
    return torch.where(size > 0, difference / size.clamp_min(torch.finfo(size.dtype).tiny), 0.0)
