"""Triton kernels of the delta operator. A token's features come in chunks: once for the sums over them, then again,
from the cache, for what is written, so that any d fits in few registers; memory is read once and written once.
"""

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from odenets.kernels import tuning
from odenets.kernels.backend import on_device_of
from odenets.kernels.tuning import Tiles

CHUNK = 4096
"""Elements of X that a program holds at a time, unless tuned."""


@triton.jit
def chunk(rows, alive, start, d, dv, D: tl.constexpr, V: tl.constexpr):
    """Offsets and masks of features start .. start + D: into k [R, D] and into X [R, D, V]."""
    i, j = start + tl.arange(0, D), tl.arange(0, V)
    mk = alive[:, None] & (i < d)[None, :]
    mx = mk[:, :, None] & (j < dv)[None, None, :]
    at_k = rows[:, None] * d + i[None, :]
    return at_k, mk, at_k[:, :, None] * dv + j[None, None, :], mx


@triton.jit
def forward_kernel(
    x_ptr, k_ptr, v_ptr, beta_ptr, out_ptr, e_ptr, tokens, d, dv, eps,
    NORMALISE: tl.constexpr, R: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    alive = rows < tokens
    at_v = rows[:, None] * dv + tl.arange(0, V)[None, :]
    mv = alive[:, None] & (tl.arange(0, V) < dv)[None, :]
    along, squares = tl.zeros([R, D, V], tl.float32), tl.zeros([R, D], tl.float32)
    for start in range(0, d, D):
        at_k, mk, at, mx = chunk(rows, alive, start, d, dv, D, V)
        k = tl.load(k_ptr + at_k, mask=mk, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=mx, other=0.0, eviction_policy="evict_last").to(tl.float32)
        along += k[:, :, None] * x
        squares += k * k
    scale = tl.full([R], 1.0, tl.float32)  # 1 / norm
    if NORMALISE:
        scale = 1.0 / tl.sqrt(tl.sum(squares, 1) + eps * eps)
    v = tl.load(v_ptr + at_v, mask=mv, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + rows, mask=alive, other=0.0).to(tl.float32)
    e = v - scale[:, None] * tl.sum(along, 1)
    tl.store(e_ptr + at_v, e, mask=mv)
    for start in range(0, d, D):
        at_k, mk, at, mx = chunk(rows, alive, start, d, dv, D, V)
        k = tl.load(k_ptr + at_k, mask=mk, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=mx, other=0.0, eviction_policy="evict_first").to(tl.float32)
        y = x + ((beta * scale)[:, None] * k)[:, :, None] * e[:, None, :]
        tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mx)


@triton.jit
def undo_kernel(
    x_ptr, k_ptr, e_ptr, beta_ptr, out_ptr, tokens, d, dv, eps,
    NORMALISE: tl.constexpr, R: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    alive = rows < tokens
    mv = alive[:, None] & (tl.arange(0, V) < dv)[None, :]
    scale = tl.full([R], 1.0, tl.float32)
    if NORMALISE:
        squares = tl.zeros([R, D], tl.float32)
        for start in range(0, d, D):
            at_k, mk, at, mx = chunk(rows, alive, start, d, dv, D, V)
            k = tl.load(k_ptr + at_k, mask=mk, other=0.0).to(tl.float32)
            squares += k * k
        scale = 1.0 / tl.sqrt(tl.sum(squares, 1) + eps * eps)
    e = tl.load(e_ptr + rows[:, None] * dv + tl.arange(0, V)[None, :], mask=mv, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + rows, mask=alive, other=0.0).to(tl.float32)
    for start in range(0, d, D):
        at_k, mk, at, mx = chunk(rows, alive, start, d, dv, D, V)
        k = tl.load(k_ptr + at_k, mask=mk, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=mx, other=0.0).to(tl.float32)
        y = x - ((beta * scale)[:, None] * k)[:, :, None] * e[:, None, :]
        tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mx)


@triton.jit
def backward_kernel(
    g_ptr, ge_ptr, x_ptr, k_ptr, v_ptr, beta_ptr, dx_ptr, dk_ptr, dv_ptr, dbeta_ptr, tokens, d, dv, eps,
    NORMALISE: tl.constexpr, ERROR: tl.constexpr, R: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    alive = rows < tokens
    at_v = rows[:, None] * dv + tl.arange(0, V)[None, :]
    mv = alive[:, None] & (tl.arange(0, V) < dv)[None, :]
    along_x, along_g = tl.zeros([R, D, V], tl.float32), tl.zeros([R, D, V], tl.float32)
    squares = tl.zeros([R, D], tl.float32)
    for start in range(0, d, D):
        at_k, mk, at, mx = chunk(rows, alive, start, d, dv, D, V)
        k = tl.load(k_ptr + at_k, mask=mk, other=0.0).to(tl.float32)
        along_x += k[:, :, None] * tl.load(x_ptr + at, mask=mx, other=0.0, eviction_policy="evict_last").to(tl.float32)
        along_g += k[:, :, None] * tl.load(g_ptr + at, mask=mx, other=0.0, eviction_policy="evict_last").to(tl.float32)
        squares += k * k
    scale = tl.full([R], 1.0, tl.float32)
    if NORMALISE:
        scale = 1.0 / tl.sqrt(tl.sum(squares, 1) + eps * eps)
    v = tl.load(v_ptr + at_v, mask=mv, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + rows, mask=alive, other=0.0).to(tl.float32)
    kx = scale[:, None] * tl.sum(along_x, 1)
    kg = scale[:, None] * tl.sum(along_g, 1)  # g = k^T G of the README
    e = v - kx
    be = beta[:, None] * e
    de = beta[:, None] * kg
    if ERROR:  # e is an output with a gradient of its own
        de += tl.load(ge_ptr + at_v, mask=mv, other=0.0).to(tl.float32)
    kdk = tl.sum(kg * be, 1) - tl.sum(kx * de, 1)
    tl.store(dv_ptr + at_v, de.to(dv_ptr.dtype.element_ty), mask=mv)
    tl.store(dbeta_ptr + rows, tl.sum(kg * e, 1).to(dbeta_ptr.dtype.element_ty), mask=alive)
    for start in range(0, d, D):
        at_k, mk, at, mx = chunk(rows, alive, start, d, dv, D, V)
        k = scale[:, None] * tl.load(k_ptr + at_k, mask=mk, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=mx, other=0.0, eviction_policy="evict_first").to(tl.float32)
        g = tl.load(g_ptr + at, mask=mx, other=0.0, eviction_policy="evict_first").to(tl.float32)
        tl.store(dx_ptr + at, (g - k[:, :, None] * de[:, None, :]).to(dx_ptr.dtype.element_ty), mask=mx)
        dk = tl.sum(g * be[:, None, :] - x * de[:, None, :], 2)
        if NORMALISE:
            dk = scale[:, None] * (dk - k * kdk[:, None])
        tl.store(dk_ptr + at_k, dk.to(dk_ptr.dtype.element_ty), mask=mk)


def _candidates(d: int, dv: int) -> list[Tiles]:
    """Tile sizes that suit d and d_v: elements of X that a program holds at a time, and warps."""
    V = triton.next_power_of_2(dv)
    found: list[Tiles] = []
    for elements, most in ((CHUNK, 8), (CHUNK // 2, 8), (CHUNK // 2, 4), (CHUNK, 4), (2 * CHUNK, 8)):
        D = min(triton.next_power_of_2(d), max(1, elements // V))
        R = max(1, elements // 2 // (D * V))
        tiles = {"R": R, "D": D, "V": V, "num_warps": min(most, max(1, R * D * V // 512))}
        if tiles not in found:
            found.append(tiles)
    return found


def _run(operator: str, x: Tensor, launch: Callable[[tuple[int], Tiles], None]) -> None:
    """launch(grid, tiles) for states x [tokens, d, d_v]."""
    tokens, d, dv = x.shape
    if x.numel():
        with on_device_of(x):
            tuning.run(
                operator,
                x,
                (d, dv),
                _candidates(d, dv),
                lambda tiles: launch((triton.cdiv(tokens, tiles["R"]),), tiles),
            )


def forward(x: Tensor, k: Tensor, v: Tensor, beta: Tensor, eps: float | None) -> tuple[Tensor, Tensor]:
    """x [tokens, d, d_v], k [tokens, d], v [tokens, d_v], beta [tokens], all contiguous. Returns X+ and e."""
    out = torch.empty_like(x)
    e = torch.empty(v.shape, dtype=torch.float32, device=v.device)

    def launch(grid: tuple[int], tiles: Tiles) -> None:
        forward_kernel[grid](x, k, v, beta, out, e, *x.shape, eps or 0.0, NORMALISE=eps is not None, **tiles)

    _run("delta", x, launch)
    return out, e


def undo(x: Tensor, k: Tensor, e: Tensor, beta: Tensor, eps: float | None) -> Tensor:
    """X from X+ [tokens, d, d_v], k, the e of the forward step and beta."""
    out = torch.empty_like(x)

    def launch(grid: tuple[int], tiles: Tiles) -> None:
        undo_kernel[grid](x, k, e, beta, out, *x.shape, eps or 0.0, NORMALISE=eps is not None, **tiles)

    _run("delta_undo", x, launch)
    return out


def backward(
    g: Tensor, ge: Tensor | None, x: Tensor, k: Tensor, v: Tensor, beta: Tensor, eps: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, k, v, beta from those of X+ and, unless None, of e."""
    dx, dk, dv, dbeta = (torch.empty_like(a) for a in (x, k, v, beta))

    def launch(grid: tuple[int], tiles: Tiles) -> None:
        backward_kernel[grid](
            g, g if ge is None else ge, x, k, v, beta, dx, dk, dv, dbeta, *x.shape, eps or 0.0,
            NORMALISE=eps is not None, ERROR=ge is not None, **tiles,
        )  # fmt: skip

    _run("delta, backward", x, launch)
    return dx, dk, dv, dbeta
