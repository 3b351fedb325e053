"""Runge-Kutta sums: shapes checked, backend picked, differentiable."""

from collections.abc import Sequence

import torch
from torch import Tensor

from odenets.kernels.backend import choose
from odenets.kernels.runge_kutta import reference


def stage_sum(
    y: Tensor, h: Tensor, weights: Sequence[float], stages: Sequence[Tensor], backend: str = "auto"
) -> Tensor:
    """`y + h sum_j w_j k_j` in one pass (HNW section II.1, eq. 1.8).

    Args:
        y: state [B, ...] if h is [B], of any shape if h is [].
        h: step size, [] or [B].
        weights: a row of the tableau; zeros cost nothing.
        stages: k_j, shaped like y.
        backend: "auto", "reference" or "triton".

    Returns:
        shaped and typed like y, summed in float32 at least.

    Raises:
        ValueError: for shapes that do not fit, or a backend that cannot run.
    """
    rows, h, flat = _rows(y, h, weights, stages)
    if choose("runge_kutta", backend, y, *stages) == "reference":
        return reference.stage_sum(rows, h, weights, flat).view(y.shape)
    return _stage_sum(rows, h, list(weights), flat).view(y.shape)


def finish(
    y: Tensor,
    h: Tensor,
    b: Sequence[float],
    b_error: Sequence[float],
    stages: Sequence[Tensor],
    rtol: float,
    atol: float,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The end of an adaptive step in one pass over the stages: the new state y+ = y + h sum b_j k_j, and the root mean
    square of the error h sum e_j k_j over atol + rtol max(|y|, |y+|) (HNW section II.4, eqs. 4.10, 4.11).

    Args:
        y, h, stages, backend: as for `stage_sum`.
        b, b_error: weights of the new state and of the error estimate.
        rtol, atol: tolerances.

    Returns:
        y+ like y, differentiable; the norm, [] or [B] like h, not differentiable.

    Raises:
        ValueError: for shapes that do not fit, or a backend that cannot run.
    """
    rows, size, flat = _rows(y, h, b, stages)
    if choose("runge_kutta", backend, y, *stages) == "reference":
        new, square = reference.finish(rows, size, b, b_error, flat, rtol, atol)
    else:
        new, square = _finish(rows, size, list(b), list(b_error), flat, rtol, atol)
    return new.view(y.shape), square.detach().sqrt().view(h.shape)


def _rows(y: Tensor, h: Tensor, weights: Sequence[float], stages: Sequence[Tensor]):
    """y and stages as [B, D] and h as [B]; [1, D] and [1] where h is one number."""
    if len(weights) != len(stages) or not stages or any(k.shape != y.shape for k in stages):
        got = ", ".join(str(list(k.shape)) for k in stages)
        raise ValueError(
            f"a Runge-Kutta sum expects one stage like y {list(y.shape)} per weight, got {len(weights)} weights "
            f"and {got}"
        )
    if h.dim() > 1 or (h.dim() == 1 and h.shape != y.shape[:1]):
        raise ValueError(f"h must be [] or [B] for y [B, ...], got {list(h.shape)} for {list(y.shape)}")
    batch = len(h) if h.dim() else 1
    return y.reshape(batch, -1).contiguous(), h.reshape(batch), [k.reshape(batch, -1).contiguous() for k in stages]


@torch.library.custom_op("odenets::stage_sum", mutates_args=())
def _stage_sum(y: Tensor, h: Tensor, weights: list[float], stages: list[Tensor]) -> Tensor:
    from odenets.kernels.runge_kutta import triton

    return triton.stage_sum(y, h, weights, stages)


@_stage_sum.register_fake
def _(y, h, weights, stages):
    return torch.empty_like(y)


@torch.library.custom_op("odenets::runge_kutta_finish", mutates_args=())
def _finish(
    y: Tensor, h: Tensor, b: list[float], b_error: list[float], stages: list[Tensor], rtol: float, atol: float
) -> tuple[Tensor, Tensor]:
    from odenets.kernels.runge_kutta import triton

    return triton.finish(y, h, b, b_error, stages, rtol, atol)


@_finish.register_fake
def _(y, h, b, b_error, stages, rtol, atol):
    return torch.empty_like(y), y.new_empty(len(y), dtype=torch.float32)


def _save(ctx, inputs, output) -> None:
    _, h, ctx.weights, *rest = inputs
    stages = rest[0] if len(rest) == 1 else rest[1]
    ctx.dtype = inputs[0].dtype
    ctx.save_for_backward(h, *(stages if ctx.needs_input_grad[1] else ()))


def _gradients(ctx, g: Tensor):
    h, *stages = ctx.saved_tensors
    scaled = (h[:, None] * g).to(g.dtype)
    dk = [scaled * w for w in ctx.weights]
    dh = None
    if stages:
        total = sum(w * k for w, k in zip(ctx.weights, stages))
        dh = (g * total).sum(-1, dtype=torch.float32)
        dh = dh.to(h.dtype) if len(h) == len(g) else dh.sum().reshape(1).to(h.dtype)
    return g, dh, dk


def _gradients_of_sum(ctx, g: Tensor):
    dy, dh, dk = _gradients(ctx, g)
    return dy, dh, None, dk


def _gradients_of_finish(ctx, g: Tensor, _):
    dy, dh, dk = _gradients(ctx, g)
    return dy, dh, None, None, dk, None, None


_stage_sum.register_autograd(_gradients_of_sum, setup_context=_save)
_finish.register_autograd(_gradients_of_finish, setup_context=_save)
