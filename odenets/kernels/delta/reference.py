"""The delta operator in plain torch: the definition."""

import torch
from torch import Tensor


def unit(k: Tensor, eps: float | None) -> Tensor:
    """k~ / sqrt(|k~|^2 + eps^2) in float32 at least; k~ itself for eps = None."""
    k = k.to(torch.promote_types(k.dtype, torch.float32))
    return k if eps is None else k * torch.rsqrt(k.square().sum(-1, keepdim=True) + eps * eps)


def delta(x: Tensor, k: Tensor, v: Tensor, beta: Tensor, eps: float | None) -> tuple[Tensor, Tensor]:
    """X+ [.., d, d_v] and the error e = v - X^T k [.., d_v] (float32 at least)."""
    k = unit(k, eps).unsqueeze(-1)
    wide = x.to(k.dtype)
    e = v.to(k.dtype) - (k * wide).sum(-2)
    return (wide + beta.to(k.dtype)[..., None, None] * k * e.unsqueeze(-2)).to(x.dtype), e


def delta_undo(x: Tensor, k: Tensor, e: Tensor, beta: Tensor, eps: float | None) -> Tensor:
    """X = X+ - beta k e^T [.., d, d_v]."""
    k = unit(k, eps).unsqueeze(-1)
    return (x.to(k.dtype) - beta.to(k.dtype)[..., None, None] * k * e.to(k.dtype).unsqueeze(-2)).to(x.dtype)
