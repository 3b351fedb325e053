"""Sinkhorn-Knopp in plain torch: the definition."""

import torch
from torch import Tensor


def sinkhorn(logits: Tensor, iterations: int) -> Tensor:
    """exp(logits) [.., n, n] with columns, then rows, normalised `iterations` times; see `op.sinkhorn`."""
    *lead, n, _ = logits.shape
    # matrix axes in front: sums over a few rows or columns then run along the long, contiguous axis of the tokens
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).reshape(-1, n, n).permute(1, 2, 0).contiguous()
    logits = logits - logits.logsumexp(0, keepdim=True)
    p = (logits - logits.logsumexp(1, keepdim=True)).exp()
    # The normalisations are diagonal scalings of p: carried as vectors they cost a quarter of rescaling p every time.
    # A factor is at most n^2 per iteration, by the entries just said: 2^76 after 19 at n = 4, far from overflow.
    row, column = torch.ones_like(p[:, :1]), torch.ones_like(p[:1])
    for _ in range(iterations - 1):
        column = (p * row).sum(0, keepdim=True).reciprocal()
        row = (p * column).sum(1, keepdim=True).reciprocal()
    return (p * row * column).permute(2, 0, 1).reshape(*lead, n, n)
