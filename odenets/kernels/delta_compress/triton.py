"""Triton kernels of `delta_compress`. As in `delta`, a token's features come in chunks and several times, from the cache
after the first: the sums over them, then what needs these sums; memory is read once and written once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from odenets.kernels import tuning
from odenets.kernels.backend import on_device_of
from odenets.kernels.delta.triton import chunk
from odenets.kernels.tuning import Tiles

PROGRAMS = 264
"""Of the backward pass, each with sums of its own: two for every processor of the device."""


@triton.jit
def _weights(w_ptr, start, d, dv, D: tl.constexpr, V: tl.constexpr):
    """W [D, V] of features start .. start + D."""
    i, j = start + tl.arange(0, D), tl.arange(0, V)
    mask = (i < d)[:, None] & (j < dv)[None, :]
    return tl.load(w_ptr + i[:, None] * dv + j[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def forward_kernel(
    x_ptr, k_ptr, v_ptr, beta_ptr, w_ptr, gain_ptr, out_ptr, c_ptr, e_ptr, scale_ptr, inverse_ptr,
    tokens, d, dv, eps, norm_eps,
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
    squares = tl.zeros([R, D], tl.float32)
    for start in range(0, d, D):
        at_k, mk, at, mx = chunk(rows, alive, start, d, dv, D, V)
        k = tl.load(k_ptr + at_k, mask=mk, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=mx, other=0.0, eviction_policy="evict_last").to(tl.float32)
        y = (x + ((beta * scale)[:, None] * k)[:, :, None] * e[:, None, :]).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + at, y, mask=mx)
        z = tl.sum(y.to(tl.float32) * _weights(w_ptr, start, d, dv, D, V)[None, :, :], 2)
        squares += z * z
    inverse = 1.0 / tl.sqrt(tl.sum(squares, 1) / d + norm_eps)
    for start in range(0, d, D):
        at_k, mk, at, mx = chunk(rows, alive, start, d, dv, D, V)
        k = tl.load(k_ptr + at_k, mask=mk, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=mx, other=0.0, eviction_policy="evict_first").to(tl.float32)
        y = (x + ((beta * scale)[:, None] * k)[:, :, None] * e[:, None, :]).to(out_ptr.dtype.element_ty)
        z = tl.sum(y.to(tl.float32) * _weights(w_ptr, start, d, dv, D, V)[None, :, :], 2)
        i = start + tl.arange(0, D)
        gain = tl.load(gain_ptr + i, mask=i < d, other=0.0).to(tl.float32)
        tl.store(c_ptr + at_k, (gain[None, :] * z * inverse[:, None]).to(c_ptr.dtype.element_ty), mask=mk)
    tl.store(e_ptr + at_v, e, mask=mv)
    tl.store(scale_ptr + rows, scale, mask=alive)
    tl.store(inverse_ptr + rows, inverse, mask=alive)


@triton.jit
def backward_kernel(
    g_ptr, gc_ptr, x_ptr, k_ptr, v_ptr, beta_ptr, w_ptr, gain_ptr, e_ptr, scale_ptr, inverse_ptr,
    dx_ptr, dk_ptr, dv_ptr, dbeta_ptr, dw_ptr, dgain_ptr, tokens, d, dv,
    NORMALISE: tl.constexpr, R: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Programs take groups of R tokens in turn; each adds the gradients of weight and gain to sums of its own, in memory
    of a few megabytes altogether: [programs, d, d_v] and [programs, d]."""
    program = tl.program_id(0)
    dw_ptr += program.to(tl.int64) * d * dv
    dgain_ptr += program.to(tl.int64) * d
    for group in range(program, tl.cdiv(tokens, R), tl.num_programs(0)):
        rows = (group * R + tl.arange(0, R)).to(tl.int64)
        alive = rows < tokens
        at_v = rows[:, None] * dv + tl.arange(0, V)[None, :]
        mv = alive[:, None] & (tl.arange(0, V) < dv)[None, :]
        v = tl.load(v_ptr + at_v, mask=mv, other=0.0).to(tl.float32)
        beta = tl.load(beta_ptr + rows, mask=alive, other=0.0).to(tl.float32)
        e = tl.load(e_ptr + at_v, mask=mv, other=0.0)
        scale = tl.load(scale_ptr + rows, mask=alive, other=0.0)
        inverse = tl.load(inverse_ptr + rows, mask=alive, other=0.0)
        be = beta[:, None] * e
        along_g, along_z = tl.zeros([R, D, V], tl.float32), tl.zeros([R, D, V], tl.float32)
        along_q = tl.zeros([R, D], tl.float32)
        for start in range(0, d, D):
            at_k, mk, at, mx = chunk(rows, alive, start, d, dv, D, V)
            i = start + tl.arange(0, D)
            k = scale[:, None] * tl.load(k_ptr + at_k, mask=mk, other=0.0).to(tl.float32)
            x = tl.load(x_ptr + at, mask=mx, other=0.0, eviction_policy="evict_last").to(tl.float32)
            g = tl.load(g_ptr + at, mask=mx, other=0.0, eviction_policy="evict_last").to(tl.float32)
            gc = tl.load(gc_ptr + at_k, mask=mk, other=0.0).to(tl.float32)
            q = gc * tl.load(gain_ptr + i, mask=i < d, other=0.0).to(tl.float32)[None, :]
            w = _weights(w_ptr, start, d, dv, D, V)[None, :, :]
            y = (x + k[:, :, None] * be[:, None, :]).to(x_ptr.dtype.element_ty).to(tl.float32)
            z = tl.sum(y * w, 2)
            along_q += q * z
            along_g += k[:, :, None] * (g + (inverse[:, None] * q)[:, :, None] * w)
            along_z += (k * z)[:, :, None] * w
        share = inverse * inverse * inverse * tl.sum(along_q, 1) / d  # dz = q / r - share z, r the root mean square
        kg = tl.sum(along_g, 1) - share[:, None] * tl.sum(along_z, 1)
        de = beta[:, None] * kg
        kdk = tl.sum(kg * be, 1) - tl.sum((v - e) * de, 1)
        tl.store(dv_ptr + at_v, de.to(dv_ptr.dtype.element_ty), mask=mv)
        tl.store(dbeta_ptr + rows, tl.sum(kg * e, 1).to(dbeta_ptr.dtype.element_ty), mask=alive)
        for start in range(0, d, D):
            at_k, mk, at, mx = chunk(rows, alive, start, d, dv, D, V)
            i, j = start + tl.arange(0, D), tl.arange(0, V)
            k = scale[:, None] * tl.load(k_ptr + at_k, mask=mk, other=0.0).to(tl.float32)
            x = tl.load(x_ptr + at, mask=mx, other=0.0, eviction_policy="evict_first").to(tl.float32)
            g = tl.load(g_ptr + at, mask=mx, other=0.0, eviction_policy="evict_first").to(tl.float32)
            gc = tl.load(gc_ptr + at_k, mask=mk, other=0.0).to(tl.float32)
            q = gc * tl.load(gain_ptr + i, mask=i < d, other=0.0).to(tl.float32)[None, :]
            w = _weights(w_ptr, start, d, dv, D, V)[None, :, :]
            y = (x + k[:, :, None] * be[:, None, :]).to(x_ptr.dtype.element_ty).to(tl.float32)
            z = tl.sum(y * w, 2)
            dz = inverse[:, None] * q - share[:, None] * z
            g += dz[:, :, None] * w
            tl.store(dx_ptr + at, (g - k[:, :, None] * de[:, None, :]).to(dx_ptr.dtype.element_ty), mask=mx)
            dk = tl.sum(g * be[:, None, :] - x * de[:, None, :], 2)
            if NORMALISE:
                dk = scale[:, None] * (dk - k * kdk[:, None])
            tl.store(dk_ptr + at_k, dk.to(dk_ptr.dtype.element_ty), mask=mk)
            more = 0 * i + group != program  # [D]: of a number the interpreter of Triton 3.9 makes no mask
            at_w, there = i[:, None] * dv + j[None, :], (i < d)[:, None] & (j < dv)[None, :]
            dw = tl.load(dw_ptr + at_w, mask=there & more[:, None], other=0.0) + tl.sum(dz[:, :, None] * y, 0)
            tl.store(dw_ptr + at_w, dw, mask=there)
            dgain = tl.load(dgain_ptr + i, mask=(i < d) & more, other=0.0)
            tl.store(dgain_ptr + i, dgain + tl.sum(gc * z * inverse[:, None], 0), mask=i < d)
        tl.debug_barrier()  # what one thread added, another may read in the next group


def _candidates(d: int, dv: int) -> list[Tiles]:
    """Several tokens at a time: the weights are read, and their gradients added, once for all of them."""
    V = triton.next_power_of_2(dv)
    found: list[Tiles] = []
    for row, elements, warps in ((512, 2048, 8), (256, 2048, 8), (512, 1024, 4), (512, 4096, 8), (1024, 2048, 8)):
        D = min(triton.next_power_of_2(d), max(1, row // V))
        R = max(1, min(8, elements // (D * V)))
        tiles = {"R": R, "D": D, "V": V, "num_warps": warps if D * V > 128 else 4}
        if tiles not in found:
            found.append(tiles)
    return found


def forward(
    x: Tensor, k: Tensor, v: Tensor, beta: Tensor, weight: Tensor, gain: Tensor, eps: float | None, norm_eps: float
) -> tuple[Tensor, ...]:
    """x [tokens, d, d_v], k [tokens, d], v [tokens, d_v], beta [tokens], weight [d, d_v], gain [d], all contiguous.

    Returns X+, c and, for the backward pass, e [tokens, d_v], the scale of k and the inverse of the root mean square.
    """
    tokens, d, dv = x.shape
    out = torch.empty_like(x)
    c = torch.empty(tokens, d, dtype=torch.promote_types(x.dtype, weight.dtype), device=x.device)
    e, scale, inverse = (
        torch.empty(shape, dtype=torch.float32, device=x.device) for shape in (v.shape, (tokens,), (tokens,))
    )

    def launch(tiles: Tiles) -> None:
        forward_kernel[(triton.cdiv(tokens, tiles["R"]),)](
            x, k, v, beta, weight, gain, out, c, e, scale, inverse, tokens, d, dv, eps or 0.0, norm_eps,
            NORMALISE=eps is not None, **tiles,
        )  # fmt: skip

    if x.numel():
        with on_device_of(x):
            tuning.run("delta_compress", x, (d, dv), _candidates(d, dv), launch)
    return out, c, e, scale, inverse


def backward(
    g: Tensor, gc: Tensor, x: Tensor, k: Tensor, v: Tensor, beta: Tensor, weight: Tensor, gain: Tensor,
    e: Tensor, scale: Tensor, inverse: Tensor, eps: float | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of x, k, v, beta, weight and gain from those of X+ and c."""
    tokens, d, dv = x.shape
    dx, dk, dvalue, dbeta = (torch.empty_like(a) for a in (x, k, v, beta))
    if not x.numel():
        return dx, dk, dvalue, dbeta, torch.zeros_like(weight), torch.zeros_like(gain)

    def launch(tiles: Tiles) -> tuple[Tensor, Tensor]:
        programs = min(triton.cdiv(tokens, tiles["R"]), PROGRAMS)
        dw, dgain = (torch.empty(programs, *a.shape, dtype=torch.float32, device=x.device) for a in (weight, gain))
        backward_kernel[(programs,)](
            g, gc, x, k, v, beta, weight, gain, e, scale, inverse, dx, dk, dvalue, dbeta, dw, dgain,
            tokens, d, dv, NORMALISE=eps is not None, **tiles,
        )  # fmt: skip
        return dw.sum(0), dgain.sum(0)

    with on_device_of(x):
        dw, dgain = tuning.run("delta_compress, backward", x, (d, dv), _candidates(d, dv), launch)
    return dx, dk, dvalue, dbeta, dw.to(weight.dtype), dgain.to(gain.dtype)
