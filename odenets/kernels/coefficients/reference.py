"""The coefficients of manifold-constrained hyper-connections in plain torch: the definition."""

import torch
from torch import Tensor

from odenets.kernels.sinkhorn import reference

EPS = 1e-20
"""Added to the mean square (arXiv:2512.24880)."""


def coefficients(
    m: Tensor, square: Tensor, alpha: Tensor, b: Tensor, n: int, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """H_pre [.., n], H_post [.., n], H_res [.., n, n] from m [.., n^2 + 2n], square [..], alpha [3], b [n^2 + 2n]."""
    wide = torch.promote_types(m.dtype, torch.float32)
    normed = m.to(wide) * torch.rsqrt(square.to(wide) + EPS).unsqueeze(-1)
    scale = torch.cat([a.expand(size) for a, size in zip(alpha.to(wide), (n, n, n * n))])
    pre, post, res = (scale * normed + b.to(wide)).split((n, n, n * n), -1)
    return pre.sigmoid(), 2 * post.sigmoid(), reference.sinkhorn(res.unflatten(-1, (n, n)), iterations)
