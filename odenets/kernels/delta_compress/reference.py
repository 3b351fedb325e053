"""The joined operator in plain torch: the definition."""

import torch
from torch import Tensor

from odenets.kernels.delta import reference


def delta_compress(
    x: Tensor, k: Tensor, v: Tensor, beta: Tensor, weight: Tensor, gain: Tensor, eps: float | None, norm_eps: float
) -> tuple[Tensor, Tensor]:
    """X+ [.., d, d_v] of the delta step, and c = gain z / sqrt(mean(z^2) + norm_eps) [.., d] of z = sum_j W_j X+_j."""
    new, _ = reference.delta(x, k, v, beta, eps)
    wide = new.to(torch.promote_types(new.dtype, torch.float32))
    z = (wide * weight.to(wide)).sum(-1)
    c = gain.to(wide) * z * torch.rsqrt(z.square().mean(-1, keepdim=True) + norm_eps)
    return new, c.to(torch.promote_types(x.dtype, weight.dtype))
