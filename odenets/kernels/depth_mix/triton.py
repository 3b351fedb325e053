"""Triton kernels of mixtures over depth: one read of every source. The number of sources is a compile-time constant."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from odenets.kernels import tuning
from odenets.kernels.backend import on_device_of
from odenets.kernels.tuning import Tiles

LARGEST = 16384
"""Most features of a token for `attend`, which holds the whole token in registers."""
PROGRAMS = 1024
"""Among which `attend`'s backward pass shares out the tokens, unless tuned."""


@triton.jit
def mix_kernel(w_ptr, values, out_ptr, C, J: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    total = tl.zeros([BLOCK], tl.float32)
    for j in tl.static_range(J):
        weight = tl.load(w_ptr + token * J + j).to(tl.float32)
        total += weight * tl.load(values[j] + token * C + c, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * C + c, total.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def mix_backward_kernel(g_ptr, w_ptr, values, dw_ptr, gradients, C, J: tl.constexpr, BLOCK: tl.constexpr):
    """A token a program: dv_j = w_j g, dw_j = g . v_j."""
    token = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    inside = c < C
    at = token * C + c
    g = tl.load(g_ptr + at, mask=inside, other=0.0).to(tl.float32)
    for j in tl.static_range(J):
        weight = tl.load(w_ptr + token * J + j).to(tl.float32)
        v = tl.load(values[j] + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(gradients[j] + at, (weight * g).to(gradients[j].dtype.element_ty), mask=inside)
        tl.store(dw_ptr + token * J + j, tl.sum(g * v, 0).to(dw_ptr.dtype.element_ty))


@triton.jit
def attend_kernel(q_ptr, s_ptr, values, out_ptr, lse_ptr, C, J: tl.constexpr, BLOCK: tl.constexpr):
    """A token a program: softmax over the sources as they come, its sum rescaled whenever the maximum rises."""
    token = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    inside = c < C
    q = tl.load(q_ptr + c, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    highest = -float("inf")
    weight = 0.0
    for j in tl.static_range(J):
        v = tl.load(values[j] + token * C + c, mask=inside, other=0.0).to(tl.float32)
        logit = tl.sum(q * v, 0) * tl.load(s_ptr + token * J + j).to(tl.float32)
        above = tl.maximum(highest, logit)
        shrink = tl.exp(highest - above)
        share = tl.exp(logit - above)
        total = total * shrink + share * v
        weight = weight * shrink + share
        highest = above
    tl.store(out_ptr + token * C + c, (total / weight).to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(lse_ptr + token, highest + tl.log(weight))


@triton.jit
def attend_backward_kernel(
    g_ptr, q_ptr, s_ptr, values, lse_ptr, dq_ptr, ds_ptr, gradients, tokens, C, per_program,
    J: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A range of tokens a program, so that the query's gradient is summed on chip: dq_ptr [programs, C]."""
    program = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    inside = c < C
    q = tl.load(q_ptr + c, mask=inside, other=0.0).to(tl.float32)
    dq = tl.zeros([BLOCK], tl.float32)
    first = program * per_program
    for step in range(first, tl.minimum(first + per_program, tokens)):
        token = tl.cast(step, tl.int64)
        at = token * C + c
        g = tl.load(g_ptr + at, mask=inside, other=0.0).to(tl.float32)
        lse = tl.load(lse_ptr + token)
        mean = 0.0  # sum_j p_j (g . v_j)
        for j in tl.static_range(J):
            v = tl.load(values[j] + at, mask=inside, other=0.0).to(tl.float32)
            logit = tl.sum(q * v, 0) * tl.load(s_ptr + token * J + j).to(tl.float32)
            mean += tl.exp(logit - lse) * tl.sum(g * v, 0)
        for j in tl.static_range(J):
            v = tl.load(values[j] + at, mask=inside, other=0.0).to(tl.float32)
            s = tl.load(s_ptr + token * J + j).to(tl.float32)
            dot = tl.sum(q * v, 0)
            p = tl.exp(dot * s - lse)
            dlogit = p * (tl.sum(g * v, 0) - mean)
            dq += dlogit * s * v
            tl.store(ds_ptr + token * J + j, (dlogit * dot).to(ds_ptr.dtype.element_ty))
            dv = p * g + dlogit * s * q
            tl.store(gradients[j] + at, dv.to(gradients[j].dtype.element_ty), mask=inside)
    tl.store(dq_ptr + program.to(tl.int64) * C + c, dq, mask=inside)


def mix(weights: Tensor, values: Sequence[Tensor]) -> Tensor:
    """weights [tokens, J], values [tokens, C], contiguous."""
    tokens, C = values[0].shape
    out = torch.empty_like(values[0])

    def launch(tiles: Tiles) -> None:
        grid = (tokens, triton.cdiv(C, tiles["BLOCK"]))
        mix_kernel[grid](weights, tuple(values), out, C, J=len(values), **tiles)

    if out.numel():
        with on_device_of(out):
            tuning.run("mix", out, (C, len(values)), _blocks(C), launch)
    return out


def mix_backward(g: Tensor, weights: Tensor, values: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Gradients of the weights and of every value."""
    tokens, C = values[0].shape
    dw, gradients = torch.zeros_like(weights), [torch.empty_like(v) for v in values]

    def launch(tiles: Tiles) -> None:
        mix_backward_kernel[(tokens,)](g, weights, tuple(values), dw, tuple(gradients), C, J=len(values), **tiles)

    if g.numel():
        with on_device_of(g):
            tuning.run("mix, backward", values[0], (C, len(values)), _whole(C), launch)
    return dw, gradients


def attend(query: Tensor, scales: Tensor, values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """query [C], scales [tokens, J], values [tokens, C], contiguous -> mixture, log of the softmax's sum [tokens]."""
    tokens, C = values[0].shape
    out = torch.empty_like(values[0])
    lse = torch.empty(tokens, dtype=torch.float32, device=out.device)

    def launch(tiles: Tiles) -> None:
        attend_kernel[(tokens,)](query, scales, tuple(values), out, lse, C, J=len(values), **tiles)

    if out.numel():
        with on_device_of(out):
            tuning.run("attend", out, (C, len(values)), _whole(C), launch)
    return out, lse


def attend_backward(
    g: Tensor, query: Tensor, scales: Tensor, values: Sequence[Tensor], lse: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Gradients of the query, the scales and every value."""
    tokens, C = values[0].shape
    ds, gradients = torch.zeros_like(scales), [torch.empty_like(v) for v in values]
    if not g.numel():
        return torch.zeros_like(query), ds, gradients

    def launch(tiles: Tiles) -> Tensor:
        per_program = triton.cdiv(tokens, tiles["PROGRAMS"])
        programs = triton.cdiv(tokens, per_program)
        dq = torch.empty(programs, C, dtype=torch.float32, device=g.device)
        attend_backward_kernel[(programs,)](
            g, query, scales, tuple(values), lse, dq, ds, tuple(gradients), tokens, C, per_program,
            J=len(values), BLOCK=tiles["BLOCK"], num_warps=tiles["num_warps"],
        )  # fmt: skip
        return dq.sum(0)

    usual, more, *_ = _whole(C)
    candidates = [{"PROGRAMS": PROGRAMS // share} | usual for share in (1, 2, 4)]
    if more["num_warps"] <= 16:  # with more of them, as with fewer, it spills
        candidates.append({"PROGRAMS": PROGRAMS} | more)
    with on_device_of(g):
        dq = tuning.run("attend, backward", values[0], (C, len(values)), candidates, launch)
    return dq.to(query.dtype), ds, gradients


def _blocks(C: int) -> list[Tiles]:
    """Features that a program takes at a time, and warps."""
    found: list[Tiles] = []
    for block in (1024, 512, 2048):
        block = min(block, triton.next_power_of_2(C))
        for share in (1, 2):
            tiles = {"BLOCK": block, "num_warps": min(8, max(1, share * block // 256))}
            if tiles not in found:
                found.append(tiles)
    return found


def _whole(C: int) -> list[Tiles]:
    """All features of a token in one program, with the usual number of warps, twice and half of it."""
    block = triton.next_power_of_2(C)
    usual = min(16, max(1, block // 256))
    return [{"BLOCK": block, "num_warps": warps} for warps in dict.fromkeys((usual, 2 * usual, max(1, usual // 2)))]
