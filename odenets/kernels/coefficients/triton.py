"""Triton kernels of mHC's coefficients: one read of the logits, all functions of them on chip, one write."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from odenets.kernels import tuning
from odenets.kernels.backend import on_device_of
from odenets.kernels.coefficients.reference import EPS
from odenets.kernels.sinkhorn.triton import ELEMENTS, pull_back, scalings
from odenets.kernels.tuning import Tiles


@triton.jit
def _normed(m_ptr, token, inverse, at, mask, N: tl.constexpr):
    return tl.load(m_ptr + token * (N * N + 2 * N) + at, mask=mask, other=0.0).to(tl.float32) * inverse


@triton.jit
def forward_kernel(
    m_ptr, square_ptr, alpha_ptr, b_ptr, pre_ptr, post_ptr, res_ptr, tokens, eps, iterations,
    N: tl.constexpr, M: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    i = tl.arange(0, M)
    there = token < tokens
    present = there[:, None] & (i < N)[None, :]
    valid = present[:, :, None] & (i < N)[None, None, :]
    inverse = 1.0 / tl.sqrt(tl.load(square_ptr + token, mask=there, other=1.0).to(tl.float32) + eps)
    row, wide = token[:, None], inverse[:, None]
    b = tl.load(b_ptr + i, mask=i < N, other=0.0).to(tl.float32)
    pre = tl.load(alpha_ptr).to(tl.float32) * _normed(m_ptr, row, wide, i[None, :], present, N) + b[None, :]
    tl.store(pre_ptr + row * N + i[None, :], tl.sigmoid(pre), mask=present)
    b = tl.load(b_ptr + N + i, mask=i < N, other=0.0).to(tl.float32)
    post = tl.load(alpha_ptr + 1).to(tl.float32) * _normed(m_ptr, row, wide, N + i[None, :], present, N) + b[None, :]
    tl.store(post_ptr + row * N + i[None, :], 2 * tl.sigmoid(post), mask=present)
    square = i[:, None] * N + i[None, :]
    b = tl.load(b_ptr + 2 * N + square, mask=(i < N)[:, None] & (i < N)[None, :], other=0.0).to(tl.float32)
    normed = _normed(m_ptr, row[:, :, None], wide[:, :, None], 2 * N + square[None, :, :], valid, N)
    res = tl.load(alpha_ptr + 2).to(tl.float32) * normed + b[None, :, :]
    p, r, c = scalings(res, valid, present, iterations)
    tl.store(res_ptr + row[:, :, None] * (N * N) + square[None, :, :], p * r[:, :, None] * c[:, None, :], mask=valid)


@triton.jit
def backward_kernel(
    gpre_ptr, gpost_ptr, gres_ptr, m_ptr, square_ptr, alpha_ptr, b_ptr, dm_ptr, dsquare_ptr, partial_ptr, scratch_ptr,
    tokens, eps, iterations, N: tl.constexpr, M: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Gradients of m and of the mean square; of alpha and b the sums over this program's tokens: [programs, 3 + .]."""
    token = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    i = tl.arange(0, M)
    there = token < tokens
    present = there[:, None] & (i < N)[None, :]
    valid = present[:, :, None] & (i < N)[None, None, :]
    total = tl.load(square_ptr + token, mask=there, other=1.0).to(tl.float32) + eps
    inverse = 1.0 / tl.sqrt(total)
    row, wide = token[:, None], inverse[:, None]
    partial_ptr += tl.program_id(0) * (N * N + 2 * N + 3)
    along = tl.zeros([B], tl.float32)  # sum of the logits' gradients times alpha m / r
    for part in tl.static_range(2):
        alpha = tl.load(alpha_ptr + part).to(tl.float32)
        b = tl.load(b_ptr + part * N + i, mask=i < N, other=0.0).to(tl.float32)
        normed = _normed(m_ptr, row, wide, part * N + i[None, :], present, N)
        s = tl.sigmoid(alpha * normed + b[None, :])
        if part == 0:
            g = tl.load(gpre_ptr + row * N + i[None, :], mask=present, other=0.0).to(tl.float32)
        else:
            g = 2 * tl.load(gpost_ptr + row * N + i[None, :], mask=present, other=0.0).to(tl.float32)
        g = g * s * (1 - s)
        tl.store(dm_ptr + row * (N * N + 2 * N) + part * N + i[None, :], alpha * wide * g, mask=present)
        moved = tl.sum(g * normed, 1)
        along += alpha * moved
        tl.store(partial_ptr + part, tl.sum(moved, 0))
        tl.store(partial_ptr + 3 + part * N + i, tl.sum(g, 0), mask=i < N)
    alpha = tl.load(alpha_ptr + 2).to(tl.float32)
    square = i[:, None] * N + i[None, :]
    inside = (i < N)[:, None] & (i < N)[None, :]
    b = tl.load(b_ptr + 2 * N + square, mask=inside, other=0.0).to(tl.float32)
    normed = _normed(m_ptr, row[:, :, None], wide[:, :, None], 2 * N + square[None, :, :], valid, N)
    g = tl.load(gres_ptr + row[:, :, None] * (N * N) + square[None, :, :], mask=valid, other=0.0).to(tl.float32)
    place = scratch_ptr + row * N + i[None, :]
    g = pull_back(g, alpha * normed + b[None, :, :], valid, present, place, tokens * N, iterations)
    at = row[:, :, None] * (N * N + 2 * N) + 2 * N + square[None, :, :]
    tl.store(dm_ptr + at, alpha * inverse[:, None, None] * g, mask=valid)
    moved = tl.sum(tl.sum(g * normed, 2), 1)
    along += alpha * moved
    tl.store(partial_ptr + 2, tl.sum(moved, 0))
    tl.store(partial_ptr + 3 + 2 * N + square, tl.sum(g, 0), mask=inside)
    tl.store(dsquare_ptr + token, -0.5 * along / total, mask=there)


def forward(
    m: Tensor, square: Tensor, alpha: Tensor, b: Tensor, n: int, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """m [tokens, n^2 + 2n], square [tokens], alpha [3], b, contiguous -> H_pre, H_post, H_res, float32."""
    tokens = len(m)
    pre, post, res = (
        torch.empty(shape, dtype=torch.float32, device=m.device) for shape in ((tokens, n), (tokens, n), (tokens, n, n))
    )

    def launch(tiles: Tiles) -> None:
        forward_kernel[(triton.cdiv(tokens, tiles["B"]),)](
            m, square, alpha, b, pre, post, res, tokens, EPS, iterations, **tiles
        )

    if tokens:
        with on_device_of(m):
            tuning.run("coefficients", m, (n, iterations), tuning.matrices(n, ELEMENTS), launch)
    return pre, post, res


def backward(
    gpre: Tensor, gpost: Tensor, gres: Tensor,
    m: Tensor, square: Tensor, alpha: Tensor, b: Tensor, n: int, iterations: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of m, the mean square, alpha and b, float32."""
    tokens = len(m)
    dm, dsquare = (torch.empty(x.shape, dtype=torch.float32, device=m.device) for x in (m, square))
    if not tokens:
        return dm, dsquare, torch.zeros_like(alpha, dtype=torch.float32), torch.zeros_like(b, dtype=torch.float32)
    scratch = torch.empty(max(iterations - 1, 1), tokens, n, dtype=torch.float32, device=m.device)

    def launch(tiles: Tiles) -> Tensor:
        programs = triton.cdiv(tokens, tiles["B"])
        partial = torch.empty(programs, 3 + len(b), dtype=torch.float32, device=m.device)
        backward_kernel[(programs,)](
            gpre, gpost, gres, m, square, alpha, b, dm, dsquare, partial, scratch, tokens, EPS, iterations, **tiles
        )
        return partial.sum(0)

    with on_device_of(m):
        summed = tuning.run("coefficients, backward", m, (n, iterations), tuning.matrices(n, ELEMENTS), launch)
    dalpha, db = summed.split((3, len(b)))
    return dm, dsquare, dalpha.clone(), db.clone()
