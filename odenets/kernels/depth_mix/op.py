"""Mixtures over depth: shapes checked, backend picked, differentiable."""

from collections.abc import Sequence

import torch
from torch import Tensor

from odenets.kernels.backend import choose
from odenets.kernels.depth_mix import reference

MOST_SOURCES = 32
"""Sources that the kernels unroll; beyond, the reference runs."""
_WIDEST = 16384


def mix(weights: Tensor, values: Sequence[Tensor], backend: str = "auto") -> Tensor:
    """`sum_j w_j v_j`: dynamic dense connections over depth (MUDD, arXiv:2502.12170).

    Args:
        weights: [.., J], or [J] for all tokens.
        values: J tensors [.., C].
        backend: "auto", "reference" or "triton" (J up to 32, C up to 16384).

    Returns:
        [.., C] in the values' dtype, summed in float32 at least.

    Raises:
        ValueError: for shapes that do not fit, or a backend that cannot run.
    """
    shape, weights, flat = _flat(weights, values, "weights")
    if _choose("mix", backend, weights, flat) == "reference":
        return reference.mix(weights, flat).view(shape)
    return _mix(weights, flat).view(shape)


def attend(query: Tensor, scales: Tensor, values: Sequence[Tensor], backend: str = "auto") -> Tensor:
    """`sum_j softmax_j(s_j q . v_j) v_j`: attention over depth (Attention Residuals, arXiv:2603.15031), where s_j is
    the reciprocal root mean square of v_j.

    Args:
        query: q [C].
        scales: s [.., J].
        values: J tensors [.., C].
        backend: "auto", "reference" or "triton" (J up to 32, C up to 16384).

    Returns:
        [.., C] in the values' dtype; softmax and sums in float32 at least.

    Raises:
        ValueError: for shapes that do not fit, or a backend that cannot run.
    """
    shape, scales, flat = _flat(scales, values, "scales")
    if query.shape != shape[-1:]:
        raise ValueError(f"attend expects a query [{shape[-1]}] for values {list(shape)}, got {list(query.shape)}")
    if _choose("attend", backend, scales, [query, *flat]) == "reference":
        return reference.attend(query, scales, flat).view(shape)
    return _attend(query.contiguous(), scales, flat)[0].view(shape)


def _flat(weights: Tensor, values: Sequence[Tensor], name: str) -> tuple[torch.Size, Tensor, list[Tensor]]:
    if not values or any(v.shape != values[0].shape for v in values):
        raise ValueError(f"a mixture expects values of one shape, got {[list(v.shape) for v in values]}")
    shape, J = values[0].shape, len(values)
    if weights.shape[-1:] != (J,) or weights.shape[:-1] not in (shape[:-1], torch.Size()):
        raise ValueError(f"expected {name} [.., {J}] over the tokens of {list(shape)}, got {list(weights.shape)}")
    flat = [v.reshape(-1, shape[-1]).contiguous() for v in values]
    return shape, weights.expand(*shape[:-1], J).reshape(-1, J).contiguous(), flat


def _choose(name: str, backend: str, weights: Tensor, tensors: list[Tensor]) -> str:
    J, C = weights.shape[-1], tensors[-1].shape[-1]
    if J > MOST_SOURCES or C > _WIDEST:
        if backend == "triton":
            raise ValueError(f"{name}: the kernel takes {MOST_SOURCES} sources of {_WIDEST} features, got {J} of {C}")
        backend = "reference"
    return choose(name, backend, tensors[-1], weights, *tensors)


@torch.library.custom_op("odenets::mix", mutates_args=())
def _mix(weights: Tensor, values: list[Tensor]) -> Tensor:
    from odenets.kernels.depth_mix import triton

    return triton.mix(weights, values)


@_mix.register_fake
def _(weights, values):
    return torch.empty_like(values[0])


@torch.library.custom_op("odenets::mix_backward", mutates_args=())
def _mix_backward(g: Tensor, weights: Tensor, values: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    from odenets.kernels.depth_mix import triton

    return triton.mix_backward(g.contiguous(), weights, values)


@_mix_backward.register_fake
def _(g, weights, values):
    return torch.empty_like(weights), [torch.empty_like(v) for v in values]


@torch.library.custom_op("odenets::attend", mutates_args=())
def _attend(query: Tensor, scales: Tensor, values: list[Tensor]) -> tuple[Tensor, Tensor]:
    from odenets.kernels.depth_mix import triton

    return triton.attend(query, scales, values)


@_attend.register_fake
def _(query, scales, values):
    return torch.empty_like(values[0]), values[0].new_empty(len(values[0]), dtype=torch.float32)


@torch.library.custom_op("odenets::attend_backward", mutates_args=())
def _attend_backward(
    g: Tensor, query: Tensor, scales: Tensor, values: list[Tensor], lse: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    from odenets.kernels.depth_mix import triton

    return triton.attend_backward(g.contiguous(), query, scales, values, lse)


@_attend_backward.register_fake
def _(g, query, scales, values, lse):
    return torch.empty_like(query), torch.empty_like(scales), [torch.empty_like(v) for v in values]


def _save_mix(ctx, inputs, output) -> None:
    weights, values = inputs
    ctx.save_for_backward(weights, *values)


def _gradients_of_mix(ctx, g: Tensor):
    weights, *values = ctx.saved_tensors
    return _mix_backward(g, weights, values)


def _save_attend(ctx, inputs, output) -> None:
    query, scales, values = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(query, scales, output[1], *values)


def _gradients_of_attend(ctx, g: Tensor, _):
    query, scales, lse, *values = ctx.saved_tensors
    return _attend_backward(g, query, scales, values, lse)


_mix.register_autograd(_gradients_of_mix, setup_context=_save_mix)
_attend.register_autograd(_gradients_of_attend, setup_context=_save_attend)
