"""The stream operators in plain torch: the definition."""

import torch
from torch import Tensor


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def aggregate(x: Tensor, pre: Tensor) -> Tensor:
    """u = H_pre X: x [.., n, C], pre [.., n] -> [.., C]."""
    return (_wide(pre).unsqueeze(-1) * _wide(x)).sum(-2).to(x.dtype)


def expand(x: Tensor, mixing: Tensor, post: Tensor, f: Tensor) -> Tensor:
    """X+ = H_res X + H_post^T f: mixing [.., n, n], post [.., n], f [.., C] -> [.., n, C]."""
    wide = _wide(x)
    return (mixing.to(wide) @ wide + post.to(wide).unsqueeze(-1) * f.to(wide).unsqueeze(-2)).to(x.dtype)


def project(x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    """m = vec(X) phi [.., N] and the mean square of vec(X) [..], from one read of X; phi [n C, N]."""
    flat = _wide(x.flatten(-2))
    return flat @ phi.to(flat), flat.square().mean(-1)
