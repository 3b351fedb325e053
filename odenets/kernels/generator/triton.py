"""Triton kernels for functions of n x n matrices: several tokens a program, everything in registers."""

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from odenets.kernels import tuning
from odenets.kernels.backend import on_device_of
from odenets.kernels.tuning import Tiles

ELEMENTS = 1024
"""Numbers of the tokens' matrices that a program holds, unless tuned."""

DEGREE = 12
"""Of the Taylor polynomial of phi_1: below float32's rounding for norms up to 1/2."""


@triton.jit
def _tile(tokens, N: tl.constexpr, M: tl.constexpr, B: tl.constexpr):
    """Offsets [B, M, M] into matrices [tokens, n, n], and where they exist."""
    token = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    i = tl.arange(0, M)
    valid = (token < tokens)[:, None, None] & (i < N)[None, :, None] & (i < N)[None, None, :]
    return token[:, None, None] * (N * N) + i[None, :, None] * N + i[None, None, :], valid


@triton.jit
def _eye(M: tl.constexpr):
    i = tl.arange(0, M)
    return tl.where(i[:, None] == i[None, :], 1.0, 0.0)[None, :, :]


@triton.jit
def _row(a, k, M: tl.constexpr):
    """Row k of every matrix: [B, M]."""
    return tl.sum(tl.where(tl.arange(0, M)[None, :, None] == k, a, 0.0), 1)


@triton.jit
def _column(a, k, M: tl.constexpr):
    """Column k of every matrix: [B, M]."""
    return tl.sum(tl.where(tl.arange(0, M)[None, None, :] == k, a, 0.0), 2)


@triton.jit
def _times(a, b, N: tl.constexpr, M: tl.constexpr):
    c = tl.zeros_like(a)
    for k in range(N):
        c += _column(a, k, M)[:, :, None] * _row(b, k, M)[:, None, :]
    return c


@triton.jit
def resolvent_kernel(m_ptr, out_ptr, tokens, N: tl.constexpr, M: tl.constexpr, B: tl.constexpr):
    """Gauss-Jordan without pivoting on I - m: safe where it is diagonally dominant by rows or columns."""
    at, valid = _tile(tokens, N, M, B)
    i = tl.arange(0, M)
    inverse = tl.zeros([B, M, M], tl.float32) + _eye(M)
    a = inverse - tl.load(m_ptr + at, mask=valid, other=0.0).to(tl.float32)
    for k in range(N):
        pivot_row = _row(a, k, M)
        pivot = 1.0 / tl.sum(tl.where(i[None, :] == k, pivot_row, 0.0), 1)
        pivot_row = pivot_row * pivot[:, None]
        inverse_row = _row(inverse, k, M) * pivot[:, None]
        factors = tl.where(i[None, :] == k, 0.0, _column(a, k, M))
        here = i[None, :, None] == k
        a = tl.where(here, pivot_row[:, None, :], a - factors[:, :, None] * pivot_row[:, None, :])
        inverse = tl.where(here, inverse_row[:, None, :], inverse - factors[:, :, None] * inverse_row[:, None, :])
    tl.store(out_ptr + at, inverse, mask=valid)


@triton.jit
def resolvent_backward_kernel(g_ptr, r_ptr, out_ptr, tokens, N: tl.constexpr, M: tl.constexpr, B: tl.constexpr):
    """dm = R^T dR R^T."""
    at, valid = _tile(tokens, N, M, B)
    transposed = tl.trans(tl.load(r_ptr + at, mask=valid, other=0.0), 0, 2, 1)
    g = tl.load(g_ptr + at, mask=valid, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, _times(_times(transposed, g, N, M), transposed, N, M), mask=valid)


@triton.jit
def exponential_kernel(
    m_ptr, e_ptr, phi_ptr, tokens, squarings, DEGREE: tl.constexpr, N: tl.constexpr, M: tl.constexpr, B: tl.constexpr
):
    at, valid = _tile(tokens, N, M, B)
    eye = tl.zeros([B, M, M], tl.float32) + _eye(M)
    m = tl.load(m_ptr + at, mask=valid, other=0.0).to(tl.float32)
    s = tl.load(squarings)
    m = m * tl.exp2(-s.to(tl.float32))
    phi = eye
    for k in range(DEGREE):  # Horner: 1 + m/2 (1 + m/3 (...))
        phi = eye + _times(m, phi, N, M) * (1.0 / (DEGREE + 1 - k))
    e = eye + _times(m, phi, N, M)
    for _ in range(s):
        phi = 0.5 * (_times(e, phi, N, M) + phi)
        e = _times(e, e, N, M)
    tl.store(e_ptr + at, e, mask=valid)
    tl.store(phi_ptr + at, phi, mask=valid)


@triton.jit
def _frechet(a, d, s, ON_E: tl.constexpr, DEGREE: tl.constexpr, N: tl.constexpr, M: tl.constexpr):
    """Derivative of e^(2^s a) (or of phi_1) along 2^s d, carried through series and squarings."""
    eye = tl.zeros_like(a) + _eye(M)
    phi, dphi = eye, tl.zeros_like(a)
    for k in range(DEGREE):
        c = 1.0 / (DEGREE + 1 - k)
        dphi = (_times(d, phi, N, M) + _times(a, dphi, N, M)) * c
        phi = eye + _times(a, phi, N, M) * c
    e = eye + _times(a, phi, N, M)
    de = _times(d, phi, N, M) + _times(a, dphi, N, M)
    for _ in range(s):
        dphi = 0.5 * (_times(de, phi, N, M) + _times(e, dphi, N, M) + dphi)
        phi = 0.5 * (_times(e, phi, N, M) + phi)
        de = _times(de, e, N, M) + _times(e, de, N, M)
        e = _times(e, e, N, M)
    if ON_E:
        return de
    return dphi


@triton.jit
def exponential_backward_kernel(
    ge_ptr, gphi_ptr, m_ptr, out_ptr, tokens, squarings,
    DEGREE: tl.constexpr, N: tl.constexpr, M: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """The adjoint of a matrix function's derivative at m is its derivative at m^T."""
    at, valid = _tile(tokens, N, M, B)
    s = tl.load(squarings)
    scale = tl.exp2(-s.to(tl.float32))
    a = tl.trans(tl.load(m_ptr + at, mask=valid, other=0.0).to(tl.float32), 0, 2, 1) * scale
    ge = tl.load(ge_ptr + at, mask=valid, other=0.0).to(tl.float32) * scale
    gphi = tl.load(gphi_ptr + at, mask=valid, other=0.0).to(tl.float32) * scale
    dm = _frechet(a, ge, s, True, DEGREE, N, M) + _frechet(a, gphi, s, False, DEGREE, N, M)
    tl.store(out_ptr + at, dm, mask=valid)


def resolvent(m: Tensor) -> Tensor:
    """m [tokens, n, n] contiguous -> (I - m)^(-1), float32."""
    out = torch.empty(m.shape, dtype=torch.float32, device=m.device)
    _run("resolvent", m, lambda grid, tiles: resolvent_kernel[grid](m, out, len(m), **tiles))
    return out


def resolvent_backward(g: Tensor, r: Tensor) -> Tensor:
    """Gradient of m from that of R = (I - m)^(-1)."""
    out = torch.empty_like(r)
    _run("resolvent, backward", r, lambda grid, tiles: resolvent_backward_kernel[grid](g, r, out, len(r), **tiles))
    return out


def exponential(m: Tensor) -> tuple[Tensor, Tensor]:
    """m [tokens, n, n] contiguous -> e^m and phi_1(m), float32."""
    e, phi = (torch.empty(m.shape, dtype=torch.float32, device=m.device) for _ in range(2))
    squarings = _squarings(m)

    def launch(grid: tuple[int], tiles: Tiles) -> None:
        exponential_kernel[grid](m, e, phi, len(m), squarings, DEGREE=DEGREE, **tiles)

    _run("exponential", m, launch)
    return e, phi


def exponential_backward(ge: Tensor, gphi: Tensor, m: Tensor) -> Tensor:
    """Gradient of m from those of e^m and phi_1(m)."""
    out = torch.empty(m.shape, dtype=torch.float32, device=m.device)
    squarings = _squarings(m)

    def launch(grid: tuple[int], tiles: Tiles) -> None:
        exponential_backward_kernel[grid](ge, gphi, m, out, len(m), squarings, DEGREE=DEGREE, **tiles)

    _run("exponential, backward", m, launch)
    return out


def _squarings(m: Tensor) -> Tensor:
    """s [] on the device such that the largest norm over 2^s is at most 1/2; capped, so that NaN ends."""
    if not m.numel():
        return torch.zeros((), dtype=torch.int32, device=m.device)
    norm = m.detach().float().abs().sum(-1).amax().clamp(min=1e-30)
    return (norm / 0.5).log2().ceil().nan_to_num(0.0).clamp(0, 30).to(torch.int32)


def _run(operator: str, m: Tensor, launch: Callable[[tuple[int], Tiles], None]) -> None:
    """launch(grid, tiles) for matrices m [tokens, n, n]."""
    tokens, n, _ = m.shape
    if tokens:
        with on_device_of(m):
            tuning.run(
                operator,
                m,
                (n,),
                tuning.matrices(n, ELEMENTS),
                lambda tiles: launch((triton.cdiv(tokens, tiles["B"]),), tiles),
            )
