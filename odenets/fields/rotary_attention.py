"""Causal self-attention with rotary positions, as a vector field on sequences."""

import math

import torch
from torch import Tensor, nn

from odenets.fields.time import TimeModulation, append_time, as_time, check_time_dependence


class RotaryAttention(nn.Module):
    """`dx/dt = W_o concat_h softmax(causal(R(i) q_i . R(j) k_j / sqrt(dim/heads))) v_j` of the normed x.

    Rotary positions (Su et al. 2021, arXiv:2104.09864): features 2m and 2m + 1 of a head are one complex number, turned
    by the angle position * base^(-2m / (dim/heads)); scores depend on the distance i - j only.

    Initial weights: `q`, `k`, `v` N(0, 1/dim), so that a state of unit mean square gives features of unit variance;
    `out` N(0, 1/(dim residuals)): the sum of `residuals` branches then adds unit variance whatever the depth (the
    scaled residual initialisation of GPT-2). No biases.

    Args:
        dim: size of the last dimension of x.
        heads: number of heads; dim / heads must be an even integer.
        norm: RMSNorm on the input; False for a block that norms it itself.
        base: of the geometric sequence of angular frequencies.
        residuals: number of branches whose outputs add up in the model, 2 per transformer layer.
        time: "none"; "concat": t is one more input feature of the q, k, v projection; "modulate": the normed input is
            scaled and shifted by a function of t that starts as the identity.
        fused: PyTorch's fused attention; False gives the plain softmax, with second derivatives and forward mode.

    Raises:
        ValueError: dim / heads odd or not an integer, residuals < 1, or (on call) x not [..., L, dim].
    """

    def __init__(
        self,
        dim: int,
        heads: int = 4,
        norm: bool = True,
        base: float = 10000.0,
        residuals: int = 1,
        time: str = "none",
        fused: bool = True,
    ):
        super().__init__()
        if heads < 1 or dim % (2 * heads) != 0:
            raise ValueError(
                f"RotaryAttention expects dim / heads to be an even integer, got dim={dim}, heads={heads}; "
                "change one of them"
            )
        if residuals < 1:
            raise ValueError(f"RotaryAttention expects residuals >= 1, got {residuals}")
        self.dim = dim
        self.heads = heads
        self.base = base
        self.fused = fused
        self.time = check_time_dependence(time)
        self.norm = nn.RMSNorm(dim) if norm else nn.Identity()
        self.modulation = TimeModulation(dim) if time == "modulate" else None
        self.qkv = nn.Linear(dim + (1 if time == "concat" else 0), 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        nn.init.normal_(self.qkv.weight, std=dim**-0.5)
        nn.init.normal_(self.out.weight, std=(dim * residuals) ** -0.5)

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """x [..., L, dim]; t a float, [] or [B] with x [B, ..., L, dim]. Returns dx/dt with x's shape."""
        if x.dim() < 2 or x.shape[-1] != self.dim:
            raise ValueError(
                f"RotaryAttention expects x [..., L, {self.dim}], got {list(x.shape)}; set dim= or add the sequence "
                "dimension"
            )
        t = as_time(t, x)
        c = self.norm(x)
        c = c if self.modulation is None else self.modulation(t, c)
        c = self.qkv(append_time(t, c) if self.time == "concat" else c)
        q, k, v = c.unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-2, -3)  # each [..., heads, L, d]
        turn = rotation(q, self.base)
        y = self._mix(rotate(q, turn), rotate(k, turn), v)
        return self.out(y.transpose(-2, -3).flatten(-2))

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.fused:
            return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        length = q.shape[-2]
        future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(future, -math.inf)
        return scores.softmax(-1) @ v

    def extra_repr(self) -> str:
        return f"dim={self.dim}, heads={self.heads}, time={self.time!r}"


def rotation(x: Tensor, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine [L, d/2] of position * base^(-2m/d) for x [..., L, d], in x's dtype."""
    # Computed in at least single precision, and not kept in a buffer: bfloat16 cannot count beyond 256.
    wide = torch.promote_types(x.dtype, torch.float32)
    length, pairs = x.shape[-2], x.shape[-1] // 2
    frequencies = base ** (-torch.arange(pairs, device=x.device, dtype=wide) / pairs)
    angle = torch.arange(length, device=x.device, dtype=wide).unsqueeze(-1) * frequencies
    return angle.cos().to(x.dtype), angle.sin().to(x.dtype)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """x [..., L, d] with each pair of neighbouring features turned by its angle."""
    cos, sin = turn
    real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)  # [..., L, d/2] each
    return torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1).flatten(-2)
