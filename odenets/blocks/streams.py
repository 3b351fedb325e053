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

    def aggregate(self, t: Tensor | float, x: Tensor, h: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A frozen step's mixing and write weights at x [.., n, C], and its branch's input [.., C]."""
        assert isinstance(self.flow, StreamFlow)
        m, q, p = self.flow.coefficients(t, x)
        return m, p, self.flow.read(q, x)

    def branch(self, t: Tensor | float, u: Tensor, h: float | Tensor) -> Tensor:
        """The branch's output for its input u [.., C]."""
        assert isinstance(self.flow, StreamFlow)
        return self.flow.branch(t, u)

    def expand(self, t: Tensor | float, x: Tensor, m: Tensor, p: Tensor, f: Tensor, h: float | Tensor) -> Tensor:
        """The frozen step from x [.., n, C] with mixing m, write weights p and the branch's output f [.., C]:
        `forward` is `aggregate`, `branch`, `expand`."""
        assert isinstance(self.flow, StreamFlow)
        linear, forcing = self.flow.frozen(m, p, f)
        return linear.propagate(self.scheme, h, x, forcing)

    def lift(self, x: Tensor) -> Tensor:
        """[.., C] -> [.., n, C], n copies."""
        x = super().lift(x).unsqueeze(-2)
        return x.expand(*x.shape[:-2], self.streams, x.shape[-1])

    def extra_repr(self) -> str:
        return f"streams={self.streams}, {super().extra_repr()}"


def wide(x: Tensor) -> Tensor:
    """x in float32 at least: coefficients are never computed in less."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
