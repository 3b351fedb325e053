"""Projection of a matrix onto the doubly stochastic ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def sinkhorn(logits: Tensor, iterations: int = 20) -> Tensor:
    """Sinkhorn-Knopp: exp(logits) with columns, then rows, normalised `iterations` times (arXiv:2512.24880).

    The rows of the result sum to 1, the columns up to what the truncation leaves (see `doubly_stochastic_error`).

    The first normalisation of the columns and of the rows is done on the logits: exp overflows float32 above 88, and
    subtracting one maximum of the whole matrix or of a column can leave a row without a number. After these two, every
    column and row holds an entry of at least 1/n^2, so that the others can be linear. Differentiated through its
    iterations: the gradient of the limit is another one.

    Args:
        logits: [.., n, n].
        iterations: at least 1.

    Returns:
        [.., n, n] in float32 at least.

    Raises:
        ValueError: for matrices that are not square or fewer than one iteration.
    """
    if logits.dim() < 2 or logits.shape[-1] != logits.shape[-2]:
        raise ValueError(f"sinkhorn expects square matrices [.., n, n], got {list(logits.shape)}.")
    if iterations < 1:
        raise ValueError(f"sinkhorn needs at least 1 iteration, got {iterations}.")
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


class DoublyStochasticError(NamedTuple):
    """How far row and column sums are from 1: smallest and largest (sum - 1), each [..]."""

    row_min: Tensor
    row_max: Tensor
    column_min: Tensor
    column_max: Tensor


def doubly_stochastic_error(p: Tensor) -> DoublyStochasticError:
    """Row and column errors of matrices p [.., n, n]."""
    rows, columns = p.sum(-1) - 1, p.sum(-2) - 1
    return DoublyStochasticError(rows.amin(-1), rows.amax(-1), columns.amin(-1), columns.amax(-1))
