"""Triton kernels of `expand_project`: a tile of tokens goes through the features; what it writes of the new streams is
multiplied by phi on the spot.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from odenets.kernels import tuning
from odenets.kernels.backend import interpreted, on_device_of
from odenets.kernels.tuning import Tiles

PROGRAMS = 264
"""Of the backward pass, as many as that where features and tokens allow it: two for every processor of the device."""

# by bytes of an element; larger tiles do not fit into the registers
_FORWARD = {
    2: [
        {"T": 32, "BC": 32, "num_warps": 4, "num_stages": 3},
        {"T": 64, "BC": 32, "num_warps": 8, "num_stages": 4},
        {"T": 64, "BC": 16, "num_warps": 4, "num_stages": 3},
        {"T": 32, "BC": 32, "num_warps": 8, "num_stages": 3},
    ],
    4: [{"T": 32, "BC": 16, "num_warps": 4, "num_stages": 3}, {"T": 32, "BC": 16, "num_warps": 8, "num_stages": 3}],
}
_BACKWARD = {
    2: [
        {"T": 16, "BC": 64, "num_warps": 8, "num_stages": 2},
        {"T": 16, "BC": 32, "num_warps": 8, "num_stages": 2},
        {"T": 16, "BC": 32, "num_warps": 4, "num_stages": 2},
    ],
    4: [{"T": 16, "BC": 16, "num_warps": 4, "num_stages": 2}, {"T": 16, "BC": 32, "num_warps": 8, "num_stages": 2}],
}


@triton.jit
def _coefficients(ptr, rows, alive, COUNT: tl.constexpr):
    """COUNT numbers per token, as a tuple of [T]."""
    found = ()
    for i in tl.static_range(COUNT):
        found = found + (tl.load(ptr + rows * COUNT + i, mask=alive, other=0.0).to(tl.float32),)  # type: ignore[assignment]  # noqa: RUF005
    return found


@triton.jit
def _streams(ptr, rows, c, C, inside, N: tl.constexpr):
    """The streams' features c, as a tuple of [T, BC]."""
    found = ()
    for j in tl.static_range(N):
        at = (rows * N + j)[:, None] * C + c[None, :]
        found = found + (tl.load(ptr + at, mask=inside, other=0.0).to(tl.float32),)  # type: ignore[assignment]  # noqa: RUF005
    return found


@triton.jit
def _expanded(x, h, post, f, i: tl.constexpr, N: tl.constexpr, DTYPE: tl.constexpr):
    """Row i of H X + post f as it is stored."""
    y = post[i][:, None] * f
    for j in tl.static_range(N):
        y += h[i * N + j][:, None] * x[j]
    return y.to(DTYPE)


@triton.jit
def split_kernel(phi_ptr, out_ptr, K, P, PARTS: tl.constexpr, BK: tl.constexpr, BP: tl.constexpr):
    """phi [K, P] with zeros up to BP columns, [K, PARTS, BP]: as it is, or as two bfloat16 numbers that add up to it."""
    k = tl.program_id(0) * BK + tl.arange(0, BK)
    columns = tl.arange(0, BP)
    mask = (k < K)[:, None] & (columns < P)[None, :]
    phi = tl.load(phi_ptr + k[:, None] * P + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    for part in tl.static_range(PARTS):
        rounded = phi.to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + (k[:, None] * PARTS + part) * BP + columns[None, :], rounded, mask=(k < K)[:, None])
        phi -= rounded.to(tl.float32)


@triton.jit
def _phi(phi_ptr, row, C, c, part: tl.constexpr, PARTS: tl.constexpr, BP: tl.constexpr):
    """Part of the split phi for one stream's features: [BC, BP]."""
    at = ((row + c)[:, None] * PARTS + part) * BP + tl.arange(0, BP)[None, :]
    return tl.load(phi_ptr + at, mask=(c < C)[:, None], other=0.0)


@triton.jit
def _dot(a, b, acc, INTERPRETED: tl.constexpr):
    """acc + a b of bfloat16 or float32. The interpreter multiplies the bits of a bfloat16: there, as float32."""
    if a.dtype == tl.float32:
        acc = tl.dot(a, b, acc, input_precision="tf32x3")
    elif INTERPRETED:
        acc = tl.dot(a.to(tl.float32), b.to(tl.float32), acc)
    else:
        acc = tl.dot(a, b, acc)
    return acc


@triton.jit
def _settled(x):
    """x, in the layout it has: a sum over one element, through which the compiler does not pull what comes before it
    into the layout of a product's operand (where it would be computed again, in more registers than there are)."""
    return tl.sum(x[:, :, None], 2)


@triton.jit
def forward_kernel(
    x_ptr, h_ptr, post_ptr, f_ptr, phi_ptr, out_ptr, m_ptr, square_ptr, tokens, C, P,
    N: tl.constexpr, T: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, PARTS: tl.constexpr,
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * T + tl.arange(0, T)
    alive = rows < tokens
    columns = tl.arange(0, BP)
    h = _coefficients(h_ptr, rows, alive, N * N)
    post = _coefficients(post_ptr, rows, alive, N)
    acc = tl.zeros([T, BP], tl.float32)
    square = tl.zeros([T, BC], tl.float32)
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        inside = alive[:, None] & (c < C)[None, :]
        f = tl.load(f_ptr + rows[:, None] * C + c[None, :], mask=inside, other=0.0).to(tl.float32)
        x = _streams(x_ptr, rows, c, C, inside, N)
        for i in tl.static_range(N):
            new = _expanded(x, h, post, f, i, N, out_ptr.dtype.element_ty)
            tl.store(out_ptr + (rows * N + i)[:, None] * C + c[None, :], new, mask=inside)
            y = new.to(tl.float32)
            square += y * y
            for part in tl.static_range(PARTS):
                phi = _phi(phi_ptr, i * C, C, c, part, PARTS, BP)
                acc = _dot(new.to(phi.dtype), phi, acc, INTERPRETED)
    tl.store(m_ptr + rows[:, None] * P + columns[None, :], acc, mask=alive[:, None] & (columns < P)[None, :])
    tl.store(square_ptr + rows, tl.sum(square, 1) / (N * C), mask=alive)


@triton.jit
def backward_kernel(
    g_ptr, gm_ptr, gs_ptr, x_ptr, h_ptr, post_ptr, f_ptr, phi_ptr, dx_ptr, df_ptr, dh_ptr, dpost_ptr, dphi_ptr,
    tokens, C, P, per_split,
    N: tl.constexpr, T: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, PARTS: tl.constexpr,
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    """A block of features and a range of tokens a program. The new streams are computed again, not read.

    Sums over features are left per block, [blocks, n^2, tokens] and [blocks, n, tokens]; those over tokens per range,
    [splits, n C, P].
    """
    block, split = tl.program_id(0), tl.program_id(1)
    c = block * BC + tl.arange(0, BC)
    columns = tl.arange(0, BP)
    dphi = ()
    for _ in tl.static_range(N):
        dphi = dphi + (tl.zeros([BC, BP], tl.float32),)  # type: ignore[assignment]  # noqa: RUF005
    first = split * per_split
    last = tl.minimum(first + per_split, tokens)
    for start in range(first, last, T):
        rows = (start + tl.arange(0, T)).to(tl.int64)
        alive = rows < last
        inside = alive[:, None] & (c < C)[None, :]
        there = alive[:, None] & (columns < P)[None, :]
        gm = tl.load(gm_ptr + rows[:, None] * P + columns[None, :], mask=there, other=0.0).to(tl.float32)
        gs = tl.load(gs_ptr + rows, mask=alive, other=0.0).to(tl.float32) * (2.0 / (N * C))
        large = gm.to(phi_ptr.dtype.element_ty)
        small = (gm - large.to(tl.float32)).to(phi_ptr.dtype.element_ty)
        h = _coefficients(h_ptr, rows, alive, N * N)
        post = _coefficients(post_ptr, rows, alive, N)
        f = tl.load(f_ptr + rows[:, None] * C + c[None, :], mask=inside, other=0.0).to(tl.float32)
        x = _streams(x_ptr, rows, c, C, inside, N)
        df = tl.zeros([T, BC], tl.float32)
        dx = ()
        for _ in tl.static_range(N):
            dx = dx + (tl.zeros([T, BC], tl.float32),)  # type: ignore[assignment]  # noqa: RUF005
        updated_dphi = ()
        dh = dh_ptr + block.to(tl.int64) * (N * N) * tokens + rows
        dpost = dpost_ptr + block.to(tl.int64) * N * tokens + rows
        for i in tl.static_range(N):
            new = _expanded(x, h, post, f, i, N, x_ptr.dtype.element_ty)
            at = (rows * N + i)[:, None] * C + c[None, :]
            phi = tl.trans(_phi(phi_ptr, i * C, C, c, 0, PARTS, BP))
            turned = tl.trans(_settled(new.to(tl.float32)).to(phi.dtype))
            along = _dot(large, phi, tl.zeros([T, BC], tl.float32), INTERPRETED)
            sums = _dot(turned, large, dphi[i], INTERPRETED)
            if PARTS == 2:
                along = _dot(small, phi, along, INTERPRETED)
                along = _dot(large, tl.trans(_phi(phi_ptr, i * C, C, c, 1, PARTS, BP)), along, INTERPRETED)
                sums = _dot(turned, small, sums, INTERPRETED)
            g = tl.load(g_ptr + at, mask=inside, other=0.0).to(tl.float32) + gs[:, None] * new.to(tl.float32)
            g += _settled(along)
            updated_dphi = updated_dphi + (sums,)  # type: ignore[assignment]  # noqa: RUF005
            df += post[i][:, None] * g
            tl.store(dpost + i * tokens, tl.sum(g * f, 1), mask=alive)
            updated = ()
            for j in tl.static_range(N):
                tl.store(dh + (i * N + j) * tokens, tl.sum(g * x[j], 1), mask=alive)
                updated = updated + (dx[j] + h[i * N + j][:, None] * g,)  # type: ignore[assignment]  # noqa: RUF005
            dx = updated
        dphi = updated_dphi
        tl.store(df_ptr + rows[:, None] * C + c[None, :], df.to(df_ptr.dtype.element_ty), mask=inside)
        for j in tl.static_range(N):
            at = (rows * N + j)[:, None] * C + c[None, :]
            tl.store(dx_ptr + at, dx[j].to(dx_ptr.dtype.element_ty), mask=inside)
    wanted = (c < C)[:, None] & (columns < P)[None, :]
    for i in tl.static_range(N):
        at = (split.to(tl.int64) * N * C + i * C + c)[:, None] * P + columns[None, :]
        tl.store(dphi_ptr + at, dphi[i], mask=wanted)


def _split(phi: Tensor, dtype: torch.dtype) -> tuple[Tensor, dict[str, int]]:
    """phi in the form the kernels read, for streams of this type, and the constants that go with it."""
    K, P = phi.shape
    BP = max(16, triton.next_power_of_2(P))
    parts, kind = (2, torch.bfloat16) if dtype == torch.bfloat16 else (1, torch.float32)
    out = torch.empty(K, parts, BP, dtype=kind, device=phi.device)
    if K:
        split_kernel[(triton.cdiv(K, 64),)](phi, out, K, P, PARTS=parts, BK=64, BP=BP, num_warps=4)
    return out, {"BP": BP, "PARTS": parts, "INTERPRETED": interpreted()}


def forward(x: Tensor, mixing: Tensor, post: Tensor, f: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x [tokens, n, C], mixing [tokens, n, n], post [tokens, n], f [tokens, C], phi [n C, P], contiguous.

    Returns X+, m [tokens, P] and the mean square [tokens], the last two float32.
    """
    tokens, n, C = x.shape
    P = phi.shape[1]
    out = torch.empty_like(x)
    m, square = (torch.empty(shape, dtype=torch.float32, device=x.device) for shape in ((tokens, P), (tokens,)))
    if tokens:
        with on_device_of(x):
            parts, constants = _split(phi, x.dtype)

            def launch(tiles: Tiles) -> None:
                forward_kernel[(triton.cdiv(tokens, tiles["T"]),)](
                    x, mixing, post, f, parts, out, m, square, tokens, C, P, N=n, **constants, **tiles
                )

            tuning.run("expand_project", x, (n, C), _FORWARD[x.element_size()], launch)
    return out, m, square


def backward(
    g: Tensor, gm: Tensor, gs: Tensor, x: Tensor, mixing: Tensor, post: Tensor, f: Tensor, phi: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, mixing, post, f and phi from those of X+, m and the mean square."""
    tokens, n, C = x.shape
    P = phi.shape[1]
    dx, df = torch.empty_like(x), torch.empty_like(f)
    if not tokens:
        return dx, torch.empty_like(mixing), torch.empty_like(post), df, torch.zeros_like(phi)
    with on_device_of(x):
        parts, constants = _split(phi, x.dtype)

        def launch(tiles: Tiles) -> tuple[Tensor, ...]:
            T = tiles["T"]
            blocks = triton.cdiv(C, tiles["BC"])
            splits = max(1, min(triton.cdiv(tokens, T), PROGRAMS // blocks))
            per_split = triton.cdiv(triton.cdiv(tokens, splits), T) * T
            sums = [
                torch.empty(shape, dtype=torch.float32, device=x.device)
                for shape in ((blocks, n * n, tokens), (blocks, n, tokens), (splits, n * C, P))
            ]
            backward_kernel[(blocks, splits)](
                g, gm, gs, x, mixing, post, f, parts, dx, df, *sums, tokens, C, P, per_split, N=n, **constants, **tiles
            )
            return tuple(a.sum(0) for a in sums)

        dmixing, dpost, dphi = tuning.run("expand_project, backward", x, (n, C), _BACKWARD[x.element_size()], launch)
    dmixing, dpost = (a.T.contiguous().view(b.shape).to(b.dtype) for a, b in ((dmixing, mixing), (dpost, post)))
    return dx, dmixing, dpost, df, dphi.to(phi.dtype)
