"""Engram: a hashed n-gram memory that kicks the state."""

from typing import ClassVar

from torch import Tensor, nn

from odenets.blocks.base import Block, step_size
from odenets.blocks.ngram import NgramMemory


class Engram(Block):
    """An impulse x <- x + u(x, ids) from a memory of n-grams, then the step of an inner block.

        e = memory(ids);  k = e W_K;  v = e W_V;  alpha = sigmoid(RMSNorm(x) . RMSNorm(k) / sqrt(dim))
        u = w + SiLU(conv(RMSNorm(w))),  w = alpha v        conv: depthwise, causal, dilation = longest n-gram

    Conditional memory of Cheng et al. 2026 (arXiv:2601.07372, section 2), added before attention and MLP as there. The
    convolution starts at zero; a zero table gives u = 0, so the block is then the inner one. How h enters: the
    inner block's step has size h; the impulse is a jump, `x' = F + sum_tau u delta(t - tau)`, and does not depend on h.
    With `times` it fires in the step with t <= tau < t + h, once however fine the steps; without, in every step of this
    block, the paper's use (give Engram to chosen places of the stack). No value is read back from the device: a step
    without an impulse computes it too and adds zero.

    Token ids come in by name: `FlowStack(...)(x, context={"ids": ids})`.

    Left out: the paper's compression of the vocabulary (pass compressed ids) and its branches for hyper-connections.

    Args:
        block: the inner block; its state must be the activation [B, L, dim].
        memory: ids [B, L] -> [B, L, memory.dim]; one object given to several blocks is shared.
        dim: size of x's last axis.
        times: times of the impulses, or None for one in every step.
        kernel: width of the convolution.
        eps: of the RMS normalisations.

    Raises:
        ValueError: (on call) no ids, ids that do not fit x, or an inner state that is not a tensor.
    """

    needs: ClassVar[tuple[str, ...]] = ("ids",)

    def __init__(
        self,
        block: Block,
        memory: NgramMemory,
        dim: int,
        times: list[float] | tuple[float, ...] | None = None,
        kernel: int = 4,
        eps: float = 1e-6,
    ):
        super().__init__()
        self.block = block
        self.memory = memory
        self.key = nn.Linear(memory.dim, dim, bias=False)
        self.value = nn.Linear(memory.dim, dim, bias=False)
        self.norm_state, self.norm_key, self.norm_value = (nn.RMSNorm(dim, eps=eps) for _ in range(3))
        self.conv = nn.Conv1d(dim, dim, kernel, groups=dim, dilation=max(memory.orders), bias=False)
        nn.init.zeros_(self.conv.weight)
        self.times = None if times is None else tuple(times)

    def impulse(self, x: Tensor, ids: Tensor) -> Tensor:
        """u for x [B, L, dim] and ids [B, L]: [B, L, dim]."""
        e = self.memory(ids).to(x.dtype)
        score = (self.norm_state(x) * self.norm_key(self.key(e))).sum(-1, keepdim=True) / x.shape[-1] ** 0.5
        w = score.sigmoid() * self.value(e)
        past = (self.conv.kernel_size[0] - 1) * self.conv.dilation[0]
        padded = nn.functional.pad(self.norm_value(w).transpose(-1, -2), (past, 0))
        return w + nn.functional.silu(self.conv(padded)).transpose(-1, -2)

    def forward(self, t: Tensor | float, x: Tensor, h: Tensor | float, ids: Tensor | None = None) -> Tensor:
        """x [B, L, dim], ids [B, L] integers; t and h floats, [] or [B]. Returns x's shape."""
        if not isinstance(x, Tensor):
            raise ValueError(f"Engram expects an inner block whose state is a tensor, got {type(x).__name__}")
        if ids is None:
            raise ValueError("Engram needs token ids: call the stack with context={'ids': ids}")
        if ids.shape != x.shape[:-1]:
            raise ValueError(f"Engram expects ids {list(x.shape[:-1])} for x {list(x.shape)}, got {list(ids.shape)}")
        u = self.impulse(x, ids)
        if self.times is not None:
            u = step_size(self._fires(t, h, self.times), x) * u
        return self.block(t, x + u, h)

    @staticmethod
    def _fires(t: Tensor | float, h: Tensor | float, times: tuple[float, ...]) -> Tensor | float:
        """How many of the times lie in the step: a number, [] or [B] like t and h."""
        # Shifted by a thousandth of a step: t = n h carries rounding, and every impulse must fire exactly once.
        places = [(tau - t) / h for tau in times]
        return sum((place >= -1e-3) & (place < 1 - 1e-3) for place in places)

    def lift(self, x: Tensor) -> Tensor:
        return self.block.lift(x)

    def readout(self, state: Tensor) -> Tensor:
        return self.block.readout(state)

    def extra_repr(self) -> str:
        return f"times={self.times}"
