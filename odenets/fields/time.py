"""How a vector field `f(t, x)` takes time: one accepted form, and the two ways a network can depend on it."""

import math

import torch
from torch import Tensor, nn

# The time dependences a network field offers by name. Weights that are functions of t: see `TimeVarying`.
TIME_DEPENDENCES = ("none", "concat", "modulate")


def check_time_dependence(time: str) -> str:
    if time not in TIME_DEPENDENCES:
        raise ValueError(f"time= takes one of {TIME_DEPENDENCES}, got {time!r}; for weights W(t) use TimeVarying")
    return time


def as_time(t: Tensor | float, x: Tensor) -> Tensor:
    """Time as a tensor [] or [B] on x's device, from a float, a 0-dim tensor or one time per sample.

    A float becomes x's dtype but never less than float32: bfloat16 cannot tell neighbouring steps apart.
    Nothing here reads a tensor's value, so nothing waits for the device.

    Raises:
        ValueError: t is neither 0-dim nor [x.shape[0]].
    """
    if not isinstance(t, Tensor):
        return torch.full((), t, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    if t.dim() == 0 or (t.dim() == 1 and x.dim() > 0 and t.shape[0] == x.shape[0]):
        return t
    raise ValueError(
        f"t must be 0-dim or one time per sample [B] for x [B, ...], got t {list(t.shape)} with x {list(x.shape)}; "
        "pass a 0-dim t, or t of shape [x.shape[0]]"
    )


def expand_time(t: Tensor | float, x: Tensor) -> Tensor:
    """Time shaped to broadcast over x [B, ...]: [] stays [], [B] becomes [B, 1, ..., 1] with x.dim() dimensions."""
    t = as_time(t, x)
    return t if t.dim() == 0 else t.reshape(-1, *[1] * (x.dim() - 1))


def append_time(t: Tensor | float, x: Tensor, dim: int = -1) -> Tensor:
    """x with t as one more channel along `dim`: x.shape[dim] grows by one."""
    shape = list(x.shape)
    shape[dim] = 1
    return torch.cat([x, expand_time(t, x).to(x.dtype).expand(shape)], dim=dim)


class TimeModulation(nn.Module):
    """Scale and shift of the channels by a small network of t: `h * (1 + scale(t)) + shift(t)`.

    The embedding is `[t, sin(w_k t), cos(w_k t)]` with w_k = pi/2 * 2^k, k < frequencies, t in units of the field's own
    time; the network has one hidden layer. Its last layer starts at zero, so that at initialisation the modulation is
    the identity. Infinitely smooth in t. After FiLM (Perez et al. 2018, arXiv:1709.07871) and the zero-initialised
    form of DiT (Peebles, Xie 2023, arXiv:2212.09748).
    """

    frequencies: Tensor

    def __init__(self, channels: int, channel_dim: int = -1, hidden: int = 32, frequencies: int = 4):
        super().__init__()
        self.channels = channels
        self.channel_dim = channel_dim
        self.register_buffer("frequencies", math.pi / 2 * 2.0 ** torch.arange(frequencies), persistent=False)
        self.embed = nn.Linear(2 * frequencies + 1, hidden)
        self.out = nn.Linear(hidden, 2 * channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, t: Tensor | float, h: Tensor) -> Tensor:
        """h with `channels` entries along `channel_dim`; t a float, [] or [B] with h [B, ...]. Returns h's shape."""
        t = as_time(t, h).to(self.frequencies.dtype).unsqueeze(-1)  # [1] or [B, 1]
        angle = t * self.frequencies
        embedding = torch.cat([t, angle.sin(), angle.cos()], dim=-1).to(self.embed.weight.dtype)
        scale, shift = self.out(nn.functional.silu(self.embed(embedding))).chunk(2, dim=-1)  # [C] or [B, C] each
        shape = [1] * h.dim()
        shape[self.channel_dim] = self.channels
        if t.dim() == 2:
            shape[0] = t.shape[0]
        return h * (1 + scale.reshape(shape)) + shift.reshape(shape)

    def extra_repr(self) -> str:
        return f"{self.channels}"
