"""Multiway dynamic dense connections."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from odenets.blocks.base import Block, step_size
from odenets.blocks.history import mix
from odenets.kernels.backend import fused
from odenets.kernels.depth_mix import mix as depth_mix


class History(NamedTuple):
    """The state of densely connected blocks: what the next step reads, and what earlier steps left behind.

    Attributes:
        inputs: the streams, each with the activation's shape; the last one is the residual, and the output.
        earlier: the states that are mixed, oldest first, each with the activation's shape.
    """

    inputs: tuple[Tensor, ...]
    earlier: tuple[Tensor, ...]


class Mudd(Block):
    """A residual step whose inputs are mixtures of the last `window` states, with weights that depend on the latest.

        X_{n+1} = r + h F(t, inputs)                       inputs, r: the streams mixed after the previous step
        A = GELU(RMSNorm(X_{n+1}) W1) W2 + a               [.., streams, window]
        stream_s = sum_j A[s, j] X_{n+1-j}                 for the next block; the last stream is r, and the output

    MUDDFormer (Xiao et al. 2025, arXiv:2502.12170, section 2), an explicit multistep method whose coefficients depend
    on the state. W2 = 0 and a = (1, 0, ..., 0) at the start: the plain residual stack. How h enters: it multiplies the
    branches' increments, as in a residual block; h = 1 is the paper's. The mixing does not depend on h: with trained
    weights a step of another size belongs to another network.

    streams:
        1: one mixture is both the branch's input and the residual (the dynamic form of DenseFormer);
        2: the branch's input, and the residual;
        4: query, key, value and residual, the paper's; the branch is called as F(t, q, k, v).

    Differences from the paper: columns of a and W2 count backward from the latest state, so that every block has the
    same shapes whatever its place; with window > N it is the paper's network with all of the past in reach.

    Args:
        branch: a vector field `F(t, x)`, or `F(t, q, k, v)` for four streams.
        dim: size of x along `axis`.
        window: number of states in reach, the latest included; the state holds as many.
        streams: 1, 2 or 4.
        branch2: a second sublayer G(t, x), x+ = x + h G(t, x), after the first; the paper's MLP. Or None.
        hidden: columns of W1; None takes streams * window, as the paper does.
        norm: a module applied to every input of the branch, or None.
        norm2: the same for branch2.
        eps: of the RMS normalisation.
        axis: the axis of the features.

    Raises:
        ValueError: streams not 1, 2 or 4, or window < 1.
    """

    def __init__(
        self,
        branch: nn.Module,
        dim: int,
        window: int = 8,
        streams: int = 1,
        branch2: nn.Module | None = None,
        hidden: int | None = None,
        norm: nn.Module | None = None,
        norm2: nn.Module | None = None,
        eps: float = 1e-6,
        axis: int = -1,
    ):
        super().__init__()
        if streams not in (1, 2, 4):
            raise ValueError(f"Mudd expects 1, 2 or 4 streams, got {streams}; 4 are query, key, value and residual")
        if window < 1:
            raise ValueError(f"Mudd expects window >= 1, got {window}; it includes the latest state")
        self.branch, self.branch2 = branch, branch2
        self.norm, self.norm2 = norm, norm2
        self.window, self.streams, self.eps, self.axis = window, streams, eps, axis
        hidden = hidden or streams * window
        self.w1 = nn.Linear(dim, hidden, bias=False)
        nn.init.normal_(self.w1.weight, std=dim**-0.5)
        self.w2 = nn.Linear(hidden, streams * window, bias=False)
        nn.init.zeros_(self.w2.weight)
        self.a = nn.Parameter(torch.zeros(streams, window))
        nn.init.ones_(self.a[:, 0])

    def forward(self, t: Tensor | float, x: History, h: Tensor | float) -> History:
        residual = x.inputs[-1]
        step = step_size(h, residual)
        read = x.inputs[: max(1, self.streams - 1)]
        y = residual + step * self.branch(t, *(z if self.norm is None else self.norm(z) for z in read))
        if self.branch2 is not None:
            y = y + step * self.branch2(t, y if self.norm2 is None else self.norm2(y))
        earlier = (*x.earlier, y)[-self.window :]
        return History(self._streams(earlier), earlier)

    def _streams(self, earlier: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        latest = earlier[-1].movedim(self.axis, -1)
        latest = latest * (latest.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        dynamic = self.w2(nn.functional.gelu(self.w1(latest))).unflatten(-1, (self.streams, self.window))
        if fused(latest) and self.axis in (-1, latest.dim() - 1):
            weights = (dynamic + self.a)[..., : len(earlier)]
            return tuple(depth_mix(weights[..., s, :], earlier[::-1]) for s in range(self.streams))
        weights = (dynamic + self.a).to(earlier[-1].dtype).unsqueeze(self.axis - 2 if self.axis < 0 else self.axis)
        return tuple(mix([weights[..., s, j] for j in range(len(earlier))], earlier[::-1]) for s in range(self.streams))

    def lift(self, x: Tensor) -> History:
        return History((x,) * self.streams, (x,))

    def readout(self, state: History) -> Tensor:
        return state.inputs[-1]

    def extra_repr(self) -> str:
        return f"streams={self.streams}, window={self.window}, axis={self.axis}"
