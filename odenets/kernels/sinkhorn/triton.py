"""Triton kernels of Sinkhorn-Knopp: the whole iteration on chip, one read and one write of the matrices."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from odenets.kernels import tuning
from odenets.kernels.backend import on_device_of
from odenets.kernels.tuning import Tiles

ELEMENTS = 2048
"""Numbers of the tokens' matrices that a program holds, unless tuned."""


@triton.jit
def _start(logits, valid):
    """exp of the logits after the first normalisation of columns, and after that of rows: [B, M, M], 0 outside."""
    highest = tl.max(tl.where(valid, logits, -3e38), 1)
    total = tl.sum(tl.where(valid, tl.exp(logits - highest[:, None, :]), 0.0), 1)
    first = logits - (highest + tl.log(total))[:, None, :]
    highest = tl.max(tl.where(valid, first, -3e38), 2)
    total = tl.sum(tl.where(valid, tl.exp(first - highest[:, :, None]), 0.0), 2)
    second = first - (highest + tl.log(total))[:, :, None]
    return tl.where(valid, tl.exp(first), 0.0), tl.where(valid, tl.exp(second), 0.0)


@triton.jit
def scalings(logits, valid, present, iterations):
    """P, r, c [B, M, M], [B, M], [B, M]: the projection is diag(r) P diag(c)."""
    _, p = _start(logits, valid)
    row = tl.where(present, 1.0, 0.0)
    column = row
    for _ in range(1, iterations):
        column = tl.where(present, 1.0 / tl.sum(p * row[:, :, None], 1), 0.0)
        row = tl.where(present, 1.0 / tl.sum(p * column[:, None, :], 2), 0.0)
    return p, row, column


@triton.jit
def pull_back(g, logits, valid, present, place, stride, iterations):
    """The logits' gradient from the projection's g, through the iterations; the rows' factors, computed again, lie at
    place, place + stride, ..."""
    first, p = _start(logits, valid)
    row = tl.where(present, 1.0, 0.0)
    column = row
    for k in range(1, iterations):
        tl.store(place + (k - 1) * stride, row, mask=present)
        column = tl.where(present, 1.0 / tl.sum(p * row[:, :, None], 1), 0.0)
        row = tl.where(present, 1.0 / tl.sum(p * column[:, None, :], 2), 0.0)
    tl.debug_barrier()
    dp = g * row[:, :, None] * column[:, None, :]
    drow = tl.sum(g * p * column[:, None, :], 2)
    dcolumn = tl.sum(g * p * row[:, :, None], 1)
    for back in range(1, iterations):
        k = iterations - back
        before = tl.load(place + (k - 1) * stride, mask=present, other=0.0)
        # row_k = 1 / (P column_k) and column_k = 1 / (P^T row_{k-1})
        dsum = -drow * row * row
        dcolumn += tl.sum(p * dsum[:, :, None], 1)
        dp += dsum[:, :, None] * column[:, None, :]
        dsum = -dcolumn * column * column
        dp += before[:, :, None] * dsum[:, None, :]
        drow = tl.sum(p * dsum[:, None, :], 2)
        row = before
        dcolumn = tl.zeros_like(dcolumn)
        if k > 1:
            earlier = tl.load(place + (k - 2) * stride, mask=present, other=0.0)
            column = tl.where(present, 1.0 / tl.sum(p * earlier[:, :, None], 1), 0.0)
    dsecond = dp * p
    dfirst = dsecond - p * tl.sum(dsecond, 2)[:, :, None]
    return dfirst - first * tl.sum(dfirst, 1)[:, None, :]


@triton.jit
def _tile(tokens, N: tl.constexpr, M: tl.constexpr, B: tl.constexpr):
    """Tokens [B], offsets [B, M, M], and where entries [B, M, M] and rows [B, M] exist."""
    token = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    i = tl.arange(0, M)
    present = (token < tokens)[:, None] & (i < N)[None, :]
    at = token[:, None, None] * (N * N) + i[None, :, None] * N + i[None, None, :]
    return token, at, present[:, :, None] & (i < N)[None, None, :], present


@triton.jit
def forward_kernel(logits_ptr, out_ptr, tokens, iterations, N: tl.constexpr, M: tl.constexpr, B: tl.constexpr):
    _, at, valid, present = _tile(tokens, N, M, B)
    logits = tl.load(logits_ptr + at, mask=valid, other=0.0).to(tl.float32)
    p, row, column = scalings(logits, valid, present, iterations)
    tl.store(out_ptr + at, p * row[:, :, None] * column[:, None, :], mask=valid)


@triton.jit
def backward_kernel(
    g_ptr, logits_ptr, out_ptr, scratch_ptr, tokens, iterations, N: tl.constexpr, M: tl.constexpr, B: tl.constexpr
):
    """Scratch for the rows' factors: [iterations - 1, tokens, n]."""
    token, at, valid, present = _tile(tokens, N, M, B)
    logits = tl.load(logits_ptr + at, mask=valid, other=0.0).to(tl.float32)
    g = tl.load(g_ptr + at, mask=valid, other=0.0).to(tl.float32)
    place = scratch_ptr + token[:, None] * N + tl.arange(0, M)[None, :]
    tl.store(out_ptr + at, pull_back(g, logits, valid, present, place, tokens * N, iterations), mask=valid)


def forward(logits: Tensor, iterations: int) -> Tensor:
    """logits [tokens, n, n] contiguous -> doubly stochastic [tokens, n, n], float32."""
    tokens, n, _ = logits.shape
    out = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)

    def launch(tiles: Tiles) -> None:
        forward_kernel[(triton.cdiv(tokens, tiles["B"]),)](logits, out, tokens, iterations, **tiles)

    if tokens:
        with on_device_of(logits):
            tuning.run("sinkhorn", logits, (n, iterations), tuning.matrices(n, ELEMENTS), launch)
    return out


def backward(g: Tensor, logits: Tensor, iterations: int) -> Tensor:
    """Gradient of the logits [tokens, n, n], float32."""
    tokens, n, _ = logits.shape
    out = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    scratch = torch.empty(max(iterations - 1, 1), tokens, n, dtype=torch.float32, device=logits.device)

    def launch(tiles: Tiles) -> None:
        backward_kernel[(triton.cdiv(tokens, tiles["B"]),)](g, logits, out, scratch, tokens, iterations, **tiles)

    if tokens:
        with on_device_of(logits):
            tuning.run("sinkhorn, backward", logits, (n, iterations), tuning.matrices(n, ELEMENTS), launch)
    return out
