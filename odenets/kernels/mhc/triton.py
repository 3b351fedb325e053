"""Triton kernels of the stream operators. n is a compile-time constant: the streams are unrolled, in registers."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from odenets.kernels import tuning
from odenets.kernels.backend import interpreted, on_device_of
from odenets.kernels.tuning import Tiles


@triton.jit
def aggregate_kernel(x_ptr, pre_ptr, out_ptr, C, N: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    u = tl.zeros([BLOCK], tl.float32)
    for i in tl.static_range(N):
        weight = tl.load(pre_ptr + token * N + i).to(tl.float32)
        u += weight * tl.load(x_ptr + (token * N + i) * C + c, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * C + c, u.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def aggregate_backward_kernel(
    g_ptr, gx_ptr, x_ptr, pre_ptr, dx_ptr, dpre_ptr, C,
    THROUGH: tl.constexpr, N: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """THROUGH: X has a gradient from elsewhere, which is added on the way."""
    token = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, M)
    present = n < N
    pre = tl.load(pre_ptr + token * N + n, mask=present, other=0.0).to(tl.float32)
    total = tl.zeros([M, BLOCK], tl.float32)
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)
        inside = present[:, None] & (c < C)[None, :]
        at = (token * N + n[:, None]) * C + c[None, :]
        g = tl.load(g_ptr + token * C + c, mask=c < C, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        dx = pre[:, None] * g[None, :]
        if THROUGH:
            dx += tl.load(gx_ptr + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=inside)
        total += x * g[None, :]
    tl.store(dpre_ptr + token * N + n, tl.sum(total, 1).to(dpre_ptr.dtype.element_ty), mask=present)


@triton.jit
def expand_kernel(x_ptr, h_ptr, post_ptr, f_ptr, out_ptr, C, N: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    f = tl.load(f_ptr + token * C + c, mask=inside, other=0.0).to(tl.float32)
    streams = ()
    for j in tl.static_range(N):
        streams = streams + (tl.load(x_ptr + (token * N + j) * C + c, mask=inside, other=0.0).to(tl.float32),)  # type: ignore[assignment]  # noqa: RUF005
    for i in tl.static_range(N):
        y = tl.load(post_ptr + token * N + i).to(tl.float32) * f
        for j in tl.static_range(N):
            y += tl.load(h_ptr + (token * N + i) * N + j).to(tl.float32) * streams[j]
        tl.store(out_ptr + (token * N + i) * C + c, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def expand_backward_kernel(
    g_ptr, x_ptr, h_ptr, post_ptr, f_ptr, dx_ptr, dh_ptr, dpost_ptr, df_ptr, C,
    N: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One token a program: dX = H^T G, df = post G, dH = G X^T, dpost = G f, each tensor read once."""
    token = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, M)
    present = n < N
    post = tl.load(post_ptr + token * N + n, mask=present, other=0.0).to(tl.float32)
    dpost = tl.zeros([M, BLOCK], tl.float32)
    dh = ()
    for _ in tl.static_range(N):
        dh = dh + (tl.zeros([M, BLOCK], tl.float32),)  # type: ignore[assignment]  # noqa: RUF005
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)
        inside = present[:, None] & (c < C)[None, :]
        at = (token * N + n[:, None]) * C + c[None, :]
        g = tl.load(g_ptr + at, mask=inside, other=0.0).to(tl.float32)
        f = tl.load(f_ptr + token * C + c, mask=c < C, other=0.0).to(tl.float32)
        tl.store(df_ptr + token * C + c, tl.sum(post[:, None] * g, 0).to(df_ptr.dtype.element_ty), mask=c < C)
        dpost += g * f[None, :]
        updated = ()
        for j in tl.static_range(N):
            row = (token * N + j) * C + c
            column = tl.load(h_ptr + (token * N + n) * N + j, mask=present, other=0.0).to(tl.float32)
            tl.store(dx_ptr + row, tl.sum(column[:, None] * g, 0).to(dx_ptr.dtype.element_ty), mask=c < C)
            x = tl.load(x_ptr + row, mask=c < C, other=0.0).to(tl.float32)
            updated = updated + (dh[j] + g * x[None, :],)  # type: ignore[assignment]  # noqa: RUF005
        dh = updated
    tl.store(dpost_ptr + token * N + n, tl.sum(dpost, 1).to(dpost_ptr.dtype.element_ty), mask=present)
    for j in tl.static_range(N):
        tl.store(dh_ptr + (token * N + n) * N + j, tl.sum(dh[j], 1).to(dh_ptr.dtype.element_ty), mask=present)


@triton.jit
def product(a, b, acc, FIRST_IS_HALF: tl.constexpr, INTERPRETED: tl.constexpr):
    """acc + a b on the tensor cores, a and b float32. If a holds bfloat16 values, b goes in as the sum of two of them
    (to 2^-17); otherwise both as three tensor-float products (to about float32).

    The interpreter multiplies the bits of a bfloat16; there, values go in as float32, which changes nothing.
    """
    if FIRST_IS_HALF:
        large = b.to(tl.bfloat16)
        small = (b - large.to(tl.float32)).to(tl.bfloat16)
        if INTERPRETED:
            acc = tl.dot(a, large.to(tl.float32), acc)
            acc = tl.dot(a, small.to(tl.float32), acc)
        else:
            acc = tl.dot(a.to(tl.bfloat16), large, acc)
            acc = tl.dot(a.to(tl.bfloat16), small, acc)
    else:
        acc = tl.dot(a, b, acc, input_precision="tf32x3")
    return acc


@triton.jit
def project_kernel(
    x_ptr, phi_ptr, m_ptr, square_ptr, tokens, K, N,
    T: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * T + tl.arange(0, T)
    columns = tl.arange(0, BN)
    acc = tl.zeros([T, BN], tl.float32)
    square = tl.zeros([T, BK], tl.float32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        inside = (rows < tokens)[:, None] & (k < K)[None, :]
        x = tl.load(x_ptr + rows[:, None] * K + k[None, :], mask=inside, other=0.0).to(tl.float32)
        wanted = (k < K)[:, None] & (columns < N)[None, :]
        phi = tl.load(phi_ptr + k[:, None] * N + columns[None, :], mask=wanted, other=0.0).to(tl.float32)
        acc = product(x, phi, acc, x_ptr.dtype.element_ty == tl.bfloat16, INTERPRETED)
        square += x * x
    out = (rows < tokens)[:, None] & (columns < N)[None, :]
    tl.store(m_ptr + rows[:, None] * N + columns[None, :], acc, mask=out)
    tl.store(square_ptr + rows, tl.sum(square, 1) / K, mask=rows < tokens)


@triton.jit
def project_backward_kernel(
    gm_ptr, gs_ptr, x_ptr, phi_ptr, dx_ptr, partial_ptr, tokens, K, N, per_split,
    T: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """A block of rows of phi and a range of tokens a program: X is read once, dX written once, dphi summed on chip."""
    k = tl.program_id(0) * BK + tl.arange(0, BK)
    split = tl.program_id(1)
    columns = tl.arange(0, BN)
    wanted = (k < K)[:, None] & (columns < N)[None, :]
    phi = tl.load(phi_ptr + k[:, None] * N + columns[None, :], mask=wanted, other=0.0).to(tl.float32)
    transposed = tl.trans(phi)
    dphi = tl.zeros([BK, BN], tl.float32)
    first = split * per_split
    last = tl.minimum(first + per_split, tokens)
    for start in range(first, last, T):
        rows = (start + tl.arange(0, T)).to(tl.int64)
        alive = rows < last
        inside = alive[:, None] & (k < K)[None, :]
        at = rows[:, None] * K + k[None, :]
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        there = alive[:, None] & (columns < N)[None, :]
        gm = tl.load(gm_ptr + rows[:, None] * N + columns[None, :], mask=there, other=0.0).to(tl.float32)
        gs = tl.load(gs_ptr + rows, mask=alive, other=0.0).to(tl.float32)
        dx = product(gm, transposed, x * (2.0 * gs / K)[:, None], False, INTERPRETED)
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=inside)
        dphi = product(tl.trans(x), gm, dphi, x_ptr.dtype.element_ty == tl.bfloat16, INTERPRETED)
    at = (split.to(tl.int64) * K + k[:, None]) * N + columns[None, :]
    tl.store(partial_ptr + at, dphi, mask=wanted)


def _blocks(C: int, most: int, per_warp: int = 256) -> list[Tiles]:
    """Features that a program takes at a time: `most`, or less, and warps."""
    found: list[Tiles] = []
    for block in (most, most // 2, 2 * most):
        block = min(block, triton.next_power_of_2(C))
        for share in (1, 2):
            tiles = {"BLOCK": block, "num_warps": min(8, max(1, share * block // per_warp))}
            if tiles not in found:
                found.append(tiles)
    return found


def aggregate(x: Tensor, pre: Tensor) -> Tensor:
    """x [tokens, n, C], pre [tokens, n], contiguous -> [tokens, C]."""
    tokens, n, C = x.shape
    out = x.new_empty(tokens, C)

    def launch(tiles: Tiles) -> None:
        aggregate_kernel[(tokens, triton.cdiv(C, tiles["BLOCK"]))](x, pre, out, C, N=n, **tiles)

    if x.numel():
        with on_device_of(x):
            tuning.run("aggregate", x, (n, C), _blocks(C, 2048), launch)
    return out


def aggregate_backward(g: Tensor, gx: Tensor | None, x: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
    """dX and dpre from the gradient [tokens, C] of u and, unless None, another one of X to add to."""
    tokens, n, C = x.shape
    dx, dpre = torch.empty_like(x), torch.empty_like(pre)
    M, through = triton.next_power_of_2(n), gx is not None

    def launch(tiles: Tiles) -> None:
        aggregate_backward_kernel[(tokens,)](
            g, gx if through else g, x, pre, dx, dpre, C, THROUGH=through, N=n, M=M, **tiles
        )

    if x.numel():
        with on_device_of(x):
            tuning.run(f"aggregate{'_through' * through}, backward", x, (n, C), _blocks(C, 1024), launch)
    return dx, dpre


def expand(x: Tensor, mixing: Tensor, post: Tensor, f: Tensor) -> Tensor:
    """x [tokens, n, C], mixing [tokens, n, n], post [tokens, n], f [tokens, C], contiguous -> X+."""
    tokens, n, C = x.shape
    out = torch.empty_like(x)

    def launch(tiles: Tiles) -> None:
        expand_kernel[(tokens, triton.cdiv(C, tiles["BLOCK"]))](x, mixing, post, f, out, C, N=n, **tiles)

    if x.numel():
        with on_device_of(x):
            tuning.run("expand", x, (n, C), _blocks(C, 1024), launch)
    return out


def expand_backward(
    g: Tensor, x: Tensor, mixing: Tensor, post: Tensor, f: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of X, mixing, post and f from that of X+."""
    tokens, n, C = x.shape
    dx, dh, dpost, df = (torch.empty_like(a) for a in (x, mixing, post, f))
    M = triton.next_power_of_2(n)

    def launch(tiles: Tiles) -> None:
        expand_backward_kernel[(tokens,)](g, x, mixing, post, f, dx, dh, dpost, df, C, N=n, M=M, **tiles)

    if x.numel():
        with on_device_of(x):  # n^2 sums of a block's width in registers: many threads
            candidates = _blocks(C, 512 if n <= 4 else 256, per_warp=32)
            tuning.run("expand, backward", x, (n, C), candidates, launch)
    return dx, dh, dpost, df


def project(x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    """x [tokens, n C], phi [n C, N], contiguous -> m [tokens, N] and the mean square [tokens], float32."""
    tokens, K = x.shape
    N = phi.shape[1]
    m, square = (torch.empty(shape, dtype=torch.float32, device=x.device) for shape in ((tokens, N), (tokens,)))
    BN = max(16, triton.next_power_of_2(N))

    def launch(tiles: Tiles) -> None:
        project_kernel[(triton.cdiv(tokens, tiles["T"]),)](
            x, phi, m, square, tokens, K, N, BN=BN, INTERPRETED=interpreted(), **tiles
        )

    if tokens:
        sizes = ((32, 64, 8), (16, 64, 4)) if BN > 64 else ((32, 64, 4), (64, 64, 4), (64, 64, 8), (16, 128, 4))
        with on_device_of(x):
            candidates = [{"T": T, "BK": BK, "num_warps": warps} for T, BK, warps in sizes]
            tuning.run("project", x, (K, N), candidates, launch)
    return m, square


def project_backward(gm: Tensor, gs: Tensor, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    """dX and dphi from the gradients of m and of the mean square."""
    tokens, K = x.shape
    N = phi.shape[1]
    BN = max(16, triton.next_power_of_2(N))
    dx = torch.empty_like(x)
    if not tokens:
        return dx, torch.zeros_like(phi)

    def launch(tiles: Tiles) -> Tensor:
        T = tiles["T"]
        blocks = triton.cdiv(K, tiles["BK"])
        splits = max(1, min(triton.cdiv(tokens, T), 264 // blocks))  # two programs for every processor of the device
        per_split = triton.cdiv(triton.cdiv(tokens, splits), T) * T
        partial = torch.empty(splits, K, N, dtype=torch.float32, device=x.device)
        project_backward_kernel[(blocks, splits)](
            gm, gs, x, phi, dx, partial, tokens, K, N, per_split, BN=BN, INTERPRETED=interpreted(), **tiles
        )
        return partial.sum(0)

    sizes = ((32, 32, 8), (16, 32, 8)) if BN > 64 else ((32, 64, 8), (32, 64, 4), (16, 64, 4), (32, 128, 8))
    with on_device_of(x):
        candidates = [{"T": T, "BK": BK, "num_warps": warps} for T, BK, warps in sizes]
        dphi = tuning.run("project, backward", x, (K, N), candidates, launch)
    return dx, dphi.to(phi.dtype)
