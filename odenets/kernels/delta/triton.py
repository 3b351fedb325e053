"""Triton kernels of the delta operator: whole tokens in registers, every tensor read once and written once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from odenets.kernels.backend import on_device_of

LARGEST = 65536
"""Most elements d x d_v of one token's state, counted up to powers of two: it is held in registers."""


@triton.jit
def _unit(k_ptr, rows, i, present, d, eps, NORMALISE: tl.constexpr):
    """k [R, D] and 1/norm [R] (1 where k is taken as it is)."""
    k = tl.load(k_ptr + rows[:, None] * d + i[None, :], mask=present, other=0.0).to(tl.float32)
    scale = tl.full([k.shape[0]], 1.0, tl.float32)
    if NORMALISE:
        scale = 1.0 / tl.sqrt(tl.sum(k * k, 1) + eps * eps)
        k = k * scale[:, None]
    return k, scale


@triton.jit
def forward_kernel(
    x_ptr, k_ptr, v_ptr, beta_ptr, out_ptr, e_ptr, tokens, d, dv, eps,
    NORMALISE: tl.constexpr, R: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    i, j = tl.arange(0, D), tl.arange(0, V)
    alive = rows < tokens
    mk = alive[:, None] & (i < d)[None, :]
    mv = alive[:, None] & (j < dv)[None, :]
    mx = mk[:, :, None] & (j < dv)[None, None, :]
    at = rows[:, None, None] * d * dv + i[None, :, None] * dv + j[None, None, :]
    k, _ = _unit(k_ptr, rows, i, mk, d, eps, NORMALISE)
    x = tl.load(x_ptr + at, mask=mx, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + rows[:, None] * dv + j[None, :], mask=mv, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + rows, mask=alive, other=0.0).to(tl.float32)
    e = v - tl.sum(k[:, :, None] * x, 1)
    tl.store(e_ptr + rows[:, None] * dv + j[None, :], e, mask=mv)
    y = x + (beta[:, None] * k)[:, :, None] * e[:, None, :]
    tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mx)


@triton.jit
def undo_kernel(
    x_ptr, k_ptr, e_ptr, beta_ptr, out_ptr, tokens, d, dv, eps,
    NORMALISE: tl.constexpr, R: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    i, j = tl.arange(0, D), tl.arange(0, V)
    alive = rows < tokens
    mk = alive[:, None] & (i < d)[None, :]
    mv = alive[:, None] & (j < dv)[None, :]
    mx = mk[:, :, None] & (j < dv)[None, None, :]
    at = rows[:, None, None] * d * dv + i[None, :, None] * dv + j[None, None, :]
    k, _ = _unit(k_ptr, rows, i, mk, d, eps, NORMALISE)
    x = tl.load(x_ptr + at, mask=mx, other=0.0).to(tl.float32)
    e = tl.load(e_ptr + rows[:, None] * dv + j[None, :], mask=mv, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + rows, mask=alive, other=0.0).to(tl.float32)
    y = x - (beta[:, None] * k)[:, :, None] * e[:, None, :]
    tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mx)


@triton.jit
def backward_kernel(
    g_ptr, ge_ptr, x_ptr, k_ptr, v_ptr, beta_ptr, dx_ptr, dk_ptr, dv_ptr, dbeta_ptr, tokens, d, dv, eps,
    NORMALISE: tl.constexpr, ERROR: tl.constexpr, R: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    i, j = tl.arange(0, D), tl.arange(0, V)
    alive = rows < tokens
    mk = alive[:, None] & (i < d)[None, :]
    mv = alive[:, None] & (j < dv)[None, :]
    mx = mk[:, :, None] & (j < dv)[None, None, :]
    at = rows[:, None, None] * d * dv + i[None, :, None] * dv + j[None, None, :]
    at_v = rows[:, None] * dv + j[None, :]
    k, scale = _unit(k_ptr, rows, i, mk, d, eps, NORMALISE)
    x = tl.load(x_ptr + at, mask=mx, other=0.0).to(tl.float32)
    g = tl.load(g_ptr + at, mask=mx, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + at_v, mask=mv, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + rows, mask=alive, other=0.0).to(tl.float32)
    kx = tl.sum(k[:, :, None] * x, 1)
    kg = tl.sum(k[:, :, None] * g, 1)  # g = k^T G of the README
    e = v - kx
    de = beta[:, None] * kg
    dk = beta[:, None] * tl.sum(g * e[:, None, :], 2)
    kdk = beta * tl.sum(kg * e, 1)
    if ERROR:  # e is an output with a gradient of its own
        de += tl.load(ge_ptr + at_v, mask=mv, other=0.0).to(tl.float32)
    dk -= tl.sum(x * de[:, None, :], 2)
    kdk -= tl.sum(kx * de, 1)
    tl.store(dx_ptr + at, (g - k[:, :, None] * de[:, None, :]).to(dx_ptr.dtype.element_ty), mask=mx)
    tl.store(dv_ptr + at_v, de.to(dv_ptr.dtype.element_ty), mask=mv)
    tl.store(dbeta_ptr + rows, tl.sum(kg * e, 1).to(dbeta_ptr.dtype.element_ty), mask=alive)
    if NORMALISE:
        dk = scale[:, None] * (dk - k * kdk[:, None])
    tl.store(dk_ptr + rows[:, None] * d + i[None, :], dk.to(dk_ptr.dtype.element_ty), mask=mk)


def _launch(x: Tensor) -> tuple[tuple[int], int, int, int, dict[str, int]]:
    """Grid, tokens, d, d_v and tile sizes for states [tokens, d, d_v]."""
    tokens, d, dv = x.shape
    D, V = triton.next_power_of_2(d), triton.next_power_of_2(dv)
    if D * V > LARGEST:
        raise ValueError(f"delta: a state of {d} x {dv} is beyond what the kernel holds ({LARGEST}); use backend='reference'")
    R = max(1, 2048 // (D * V))
    warps = min(16, max(1, R * D * V // 512))
    return (triton.cdiv(tokens, R),), tokens, d, dv, {"R": R, "D": D, "V": V, "num_warps": warps}


def forward(x: Tensor, k: Tensor, v: Tensor, beta: Tensor, eps: float | None) -> tuple[Tensor, Tensor]:
    """x [tokens, d, d_v], k [tokens, d], v [tokens, d_v], beta [tokens], all contiguous. Returns X+ and e."""
    out = torch.empty_like(x)
    e = torch.empty(v.shape, dtype=torch.float32, device=v.device)
    grid, *sizes, tiles = _launch(x)
    if x.numel():
        with on_device_of(x):
            forward_kernel[grid](x, k, v, beta, out, e, *sizes, eps or 0.0, NORMALISE=eps is not None, **tiles)
    return out, e


def undo(x: Tensor, k: Tensor, e: Tensor, beta: Tensor, eps: float | None) -> Tensor:
    """X from X+ [tokens, d, d_v], k, the e of the forward step and beta."""
    out = torch.empty_like(x)
    grid, *sizes, tiles = _launch(x)
    if x.numel():
        with on_device_of(x):
            undo_kernel[grid](x, k, e, beta, out, *sizes, eps or 0.0, NORMALISE=eps is not None, **tiles)
    return out


def backward(
    g: Tensor, ge: Tensor | None, x: Tensor, k: Tensor, v: Tensor, beta: Tensor, eps: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, k, v, beta from those of X+ and, unless None, of e."""
    dx, dk, dv, dbeta = (torch.empty_like(a) for a in (x, k, v, beta))
    grid, *sizes, tiles = _launch(x)
    if x.numel():
        with on_device_of(x):
            backward_kernel[grid](
                g, g if ge is None else ge, x, k, v, beta, dx, dk, dv, dbeta, *sizes, eps or 0.0,
                NORMALISE=eps is not None, ERROR=ge is not None, **tiles,
            )  # fmt: skip
    return dx, dk, dv, dbeta
