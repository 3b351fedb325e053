"""Streams: n copies of the activation that a block mixes, reads from and writes to."""

from typing import NamedTuple

import torch
from torch import Tensor

from odenets.blocks.flow_block import FlowBlock
from odenets.flows import StreamFlow


class StreamCoefficients(NamedTuple):
    """The flow X' = mixing X + write F(read^T X) at one state: mixing [.., n, n], read [.., n], write [.., n]."""

    mixing: Tensor
    read: Tensor
    write: Tensor


class StreamBlock(FlowBlock):
    """A step of a `StreamFlow` on states X [.., n, C], the activation copied n times at the start.

    Attributes:
        streams: n.
    """

    def __init__(self, flow: StreamFlow, streams: int, *args, **kwargs):
        if streams < 1:
            raise ValueError(f"expected streams >= 1, got {streams}")
        super().__init__(flow, *args, **kwargs)
        self.streams = streams

    def coefficients(self, t: Tensor | float, x: Tensor) -> StreamCoefficients:
        """Mixing, read and write weights at the state x [.., n, C]."""
        assert isinstance(self.flow, StreamFlow)
        return StreamCoefficients(*self.flow.coefficients(t, x))

    def step_matrix(self, t: Tensor | float, x: Tensor, h: float | Tensor = 1.0) -> Tensor:
        """R(h mixing) [.., n, n]: H_res, what a frozen step h (a float or 0-dim) does to the streams themselves."""
        return self.scheme.R_matrix(h * self.coefficients(t, x).mixing)

    def lift(self, x: Tensor) -> Tensor:
        """[.., C] -> [.., n, C], n copies."""
        x = super().lift(x).unsqueeze(-2)
        return x.expand(*x.shape[:-2], self.streams, x.shape[-1])

    def extra_repr(self) -> str:
        return f"streams={self.streams}, {super().extra_repr()}"


def wide(x: Tensor) -> Tensor:
    """x in float32 at least: coefficients are never computed in less."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
