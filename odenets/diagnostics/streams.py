"""Do the streams of hyper-connections stay different, or collapse onto one?"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from odenets.blocks.streams import StreamBlock
from odenets.diagnostics.result import Result, host
from odenets.diagnostics.trace import states
from odenets.models import FlowStack


@dataclass
class StreamCollapse(Result):
    """How alike the n streams are at t_0 .. t_N, means over tokens.

    Attributes:
        streams: n.
        cosine: [N+1], the mean cosine between two different streams; 1 if all point the same way.
        effective_rank: [N+1], exp of the entropy of the normalised singular values of X [n, C] (Roy, Vetterli 2007),
            between 1 (collapsed) and n. The start is 1: the streams begin as copies.
    """

    streams: int
    cosine: Tensor
    effective_rank: Tensor


@torch.no_grad()
def stream_collapse(stack: FlowStack, x: Tensor, context: Mapping[str, Tensor] | None = None) -> StreamCollapse:
    """Cosines and effective rank of the streams along an input x [B, ...].

    Raises:
        ValueError: a block without streams, or with a single one.
    """
    block = stack.block(0)
    block = getattr(block, "template", block)
    if not isinstance(block, StreamBlock) or block.streams < 2:
        raise ValueError(f"{type(block).__name__} has no several streams to compare; take hyper-connections")
    along = [state.double() for state in states(stack, x, context)]  # each [.., n, C]
    return StreamCollapse(
        block.streams,
        host(torch.stack([_cosine(state) for state in along])),
        host(torch.stack([effective_rank(state).mean() for state in along])),
    )


def effective_rank(x: Tensor) -> Tensor:
    """exp(-sum p log p) [..] with p the singular values of x [.., n, C] over their sum (Roy, Vetterli 2007)."""
    values = torch.linalg.svdvals(x)
    p = values / values.sum(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return torch.special.entr(p).sum(-1).exp()


def _cosine(x: Tensor) -> Tensor:
    """Mean over tokens and pairs i < j of the cosine of streams i and j, of x [.., n, C]."""
    unit = torch.nn.functional.normalize(x, dim=-1)
    gram = unit @ unit.mT
    n = x.shape[-2]
    upper = torch.triu_indices(n, n, offset=1)
    return gram[..., upper[0], upper[1]].mean()
