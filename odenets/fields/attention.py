"""Multi-head self-attention as a vector field on sequences."""

import math

import torch
from torch import Tensor, nn

from odenets.fields.time import TimeModulation, append_time, as_time, check_time_dependence


class Attention(nn.Module):
    """`dx/dt = W_o concat_h softmax(Q_h K_h^T / sqrt(dim/heads)) V_h` over the L positions of x (Vaswani et al. 2017,
    arXiv:1706.03762). No position encoding: add one to x, or leave the field permutation-equivariant.

    Time dependence: "none"; "concat": t is one more input feature of the query/key/value projection; "modulate": its
    input is scaled and shifted by a function of t that starts as the identity.

    Args:
        dim: size of the last dimension of x.
        heads: number of heads; divides dim.
        causal: position i attends to positions <= i only. An adaptive solver whose error norm runs over the sequence
            still lets later positions act on earlier ones, through the step size: take fixed steps.
        time: "none", "concat" or "modulate".
        out_scale: factor on the output projection's initial weights; 0 makes the initial field zero.
        fused: use PyTorch's fused attention. It has no second derivatives and no forward mode: pass False (plain
            softmax, [L, L] in memory) for exact divergences, Jacobian-vector products or Hessians.

    Raises:
        ValueError: heads does not divide dim, an unknown `time`, or (on call) x not [..., L, dim].
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        causal: bool = False,
        time: str = "none",
        out_scale: float = 1.0,
        fused: bool = True,
    ):
        super().__init__()
        if heads < 1 or dim % heads != 0:
            raise ValueError(f"Attention expects heads to divide dim, got dim={dim}, heads={heads}; change one of them")
        self.dim = dim
        self.heads = heads
        self.causal = causal
        self.fused = fused
        self.time = check_time_dependence(time)
        self.modulation = TimeModulation(dim) if time == "modulate" else None
        self.qkv = nn.Linear(dim + (1 if time == "concat" else 0), 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.out.weight.data.mul_(out_scale)
        self.out.bias.data.mul_(out_scale)

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """x [..., L, dim]; t a float, [] or [B] with x [B, ..., L, dim]. Returns dx/dt with x's shape."""
        if x.dim() < 2 or x.shape[-1] != self.dim:
            raise ValueError(
                f"Attention expects x [..., L, {self.dim}], got {list(x.shape)}; set dim= or add the sequence dimension"
            )
        t = as_time(t, x)
        h = x if self.modulation is None else self.modulation(t, x)
        h = self.qkv(append_time(t, h) if self.time == "concat" else h)
        q, k, v = (
            h.unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-2, -3)
        )  # each [..., heads, L, dim/heads]
        y = self._mix(q, k, v).transpose(-2, -3).flatten(-2)  # [..., L, dim]
        return self.out(y)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.fused:
            return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if self.causal:
            length = q.shape[-2]
            future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
            logits = logits.masked_fill(future, -math.inf)
        return logits.softmax(-1) @ v

    def extra_repr(self) -> str:
        return f"dim={self.dim}, heads={self.heads}, causal={self.causal}, time={self.time!r}"
