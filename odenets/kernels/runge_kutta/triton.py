"""Triton kernels of a Runge-Kutta step: every stage is read once, nothing in between is written."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from odenets.kernels import tuning
from odenets.kernels.backend import on_device_of
from odenets.kernels.tuning import Tiles

CANDIDATES = [{"BLOCK": block, "num_warps": warps} for block, warps in ((1024, 4), (2048, 4), (2048, 8), (512, 4))]


@triton.jit
def stage_sum_kernel(y_ptr, h_ptr, stages, weights, out_ptr, D, H: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < D
    at = row * D + c
    h = tl.load(h_ptr + row * H).to(tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for j in tl.static_range(S):
        total += weights[j] * tl.load(stages[j] + at, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, (y + h * total).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def finish_kernel(
    y_ptr, h_ptr, stages, weights, errors, out_ptr, partial_ptr, D, rtol, atol,
    H: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    c = block * BLOCK + tl.arange(0, BLOCK)
    inside = c < D
    at = row * D + c
    h = tl.load(h_ptr + row * H).to(tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    error = tl.zeros([BLOCK], tl.float32)
    for j in tl.static_range(S):
        k = tl.load(stages[j] + at, mask=inside, other=0.0).to(tl.float32)
        total += weights[j] * k
        error += errors[j] * k
    y = tl.load(y_ptr + at, mask=inside, other=0.0).to(tl.float32)
    new = (y + h * total).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + at, new, mask=inside)
    scaled = h * error / (atol + rtol * tl.maximum(tl.abs(y), tl.abs(new.to(tl.float32))))
    tl.store(partial_ptr + row * tl.num_programs(1) + block, tl.sum(tl.where(inside, scaled * scaled, 0.0), 0))


def stage_sum(y: Tensor, h: Tensor, weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """y [B, D], h [B] or [1], stages [B, D], all contiguous."""
    out = torch.empty_like(y)
    rows, D = y.shape
    used = [(w, k) for w, k in zip(weights, stages) if w != 0]

    def launch(tiles: Tiles) -> None:
        stage_sum_kernel[(rows, triton.cdiv(D, tiles["BLOCK"]))](
            y, h, tuple(k for _, k in used), tuple(w for w, _ in used), out, D, H=int(len(h) > 1), S=len(used), **tiles
        )

    if y.numel():
        with on_device_of(y):
            tuning.run("stage_sum", y, (D, len(used)), CANDIDATES, launch)
    return out


def finish(
    y: Tensor,
    h: Tensor,
    b: Sequence[float],
    b_error: Sequence[float],
    stages: Sequence[Tensor],
    rtol: float,
    atol: float,
) -> tuple[Tensor, Tensor]:
    """The new state and the mean square of the scaled error per row [B], float32."""
    out = torch.empty_like(y)
    rows, D = y.shape
    if not y.numel():
        return out, torch.zeros(rows, dtype=torch.float32, device=y.device)
    used = [i for i in range(len(b)) if b[i] != 0 or b_error[i] != 0]

    def launch(tiles: Tiles) -> Tensor:
        blocks = triton.cdiv(D, tiles["BLOCK"])
        partial = torch.empty(rows, blocks, dtype=torch.float32, device=y.device)
        finish_kernel[(rows, blocks)](
            y, h, tuple(stages[i] for i in used), tuple(b[i] for i in used), tuple(b_error[i] for i in used),
            out, partial, D, rtol, atol, H=int(len(h) > 1), S=len(used), **tiles,
        )  # fmt: skip
        return partial.sum(1) / D

    with on_device_of(y):
        return out, tuning.run("finish", y, (D, len(used)), CANDIDATES, launch)
