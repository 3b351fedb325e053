"""Hyper-connections: a learned, unconstrained mixing of n streams."""

import torch
from torch import Tensor, nn

from odenets.blocks.flow_block import FeaturesLast
from odenets.blocks.streams import StreamBlock, wide
from odenets.flows import Scheme, StreamFlow


class HyperConnections(StreamBlock):
    """`A_r^T H + B^T F(A_m^T H)` on streams H [.., n, C] (Zhu et al. 2024, arXiv:2409.19606).

    As a flow: H' = (A_r^T - I) H + B^T F(A_m^T H), whose forward Euler step with h = 1 is the paper's; other schemes
    and step sizes act on A_r^T - I, which nothing keeps stable. The dynamic form, with H^ = LayerNorm(H) per
    stream:

        B(H) = s_b tanh(H^ W_b) + B,   A_m(H) = s_a tanh(H^ W_m) + A_m,   A_r(H) = s_a tanh(H^ W_r) + A_r.

    Initialisation: W = 0, s_a = s_b = 0.01, B = 1, A_r = I, A_m = e_(k mod n) for block number k of a stack (which says
    so through `place`). The streams are summed at the output: n times what the residual net of these
    branches gives, as long as nothing is learned; put a norm behind it.

    Args:
        branch: F, a field `f(t, u) -> [u.shape]`.
        dim: number C of features.
        streams: n.
        dynamic: whether the coefficients depend on the state, token by token.
        scheme: a Scheme or its name.
        step: "frozen" or "half_frozen".
        norm: a module on the last dimension applied to the branch's input, such as `nn.RMSNorm`, or None.
        channel_dim: where x has its features; None: the branch's `channel_dim`, or -1.
    """

    def __init__(
        self,
        branch: nn.Module,
        dim: int,
        streams: int = 4,
        dynamic: bool = True,
        scheme: Scheme | str = "forward_euler",
        step: str = "frozen",
        norm: nn.Module | None = None,
        channel_dim: int | None = None,
    ):
        inner = FeaturesLast(branch, norm, channel_dim)
        flow = StreamFlow(_Coefficients(dim, streams, dynamic), inner, generator=False)
        super().__init__(flow, streams, scheme, step, inner.channel_dim)

    def place(self, index: int, count: int) -> None:
        assert isinstance(self.flow.coefficients, _Coefficients)
        self.flow.coefficients.read_stream(index % self.streams)

    def readout(self, state: Tensor) -> Tensor:
        """The sum of the streams: [.., n, C] -> [.., C]."""
        return super().readout(state.sum(-2))


class _Coefficients(nn.Module):
    """(t, H) -> (A_r^T - I, A_m, B)."""

    identity: Tensor

    def __init__(self, dim: int, n: int, dynamic: bool):
        super().__init__()
        self.a_r = nn.Parameter(torch.eye(n))
        self.a_m = nn.Parameter(torch.eye(n)[0])
        self.b = nn.Parameter(torch.ones(n))
        self.register_buffer("identity", torch.eye(n), persistent=False)
        self.norm = nn.LayerNorm(dim) if dynamic else None
        if dynamic:
            self.w_r = nn.Parameter(torch.zeros(dim, n))
            self.w_m = nn.Parameter(torch.zeros(dim))
            self.w_b = nn.Parameter(torch.zeros(dim))
            self.s_a = nn.Parameter(torch.tensor(0.01))
            self.s_b = nn.Parameter(torch.tensor(0.01))

    @torch.no_grad()
    def read_stream(self, index: int) -> None:
        self.a_m.copy_(self.identity[index])

    def forward(self, t: Tensor | float, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a_r, a_m, b = wide(self.a_r), wide(self.a_m), wide(self.b)
        if self.norm is not None:
            with torch.autocast(x.device.type, enabled=False):
                h = wide(self.norm(x))  # [.., n, C]
                a_r = a_r + self.s_a * (h @ self.w_r.to(h.dtype)).tanh()
                a_m = a_m + self.s_a * (h @ self.w_m.to(h.dtype)).tanh()
                b = b + self.s_b * (h @ self.w_b.to(h.dtype)).tanh()
        return a_r.mT - self.identity, a_m, b
