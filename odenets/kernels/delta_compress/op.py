"""The joined delta operator: shapes checked, backend picked, differentiable."""

import torch
from torch import Tensor

from odenets.kernels.backend import choose
from odenets.kernels.delta.op import check_parts, flattened
from odenets.kernels.delta_compress import reference


def delta_compress(
    x: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    weight: Tensor,
    gain: Tensor,
    eps: float | None = 1e-5,
    norm_eps: float = 1e-6,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`X+ = X + beta k (v^T - k^T X)` and what the next sublayer reads of it, `c = RMSNorm(sum_j W_j X+_j)`, in one pass
    over the state (Deep Delta Learning with channel compression, arXiv:2601.00417).

    Args:
        x, k, v, beta, eps: as for `delta`.
        weight: the next sublayer's compression W [d, d_v].
        gain: its norm's weight [d].
        norm_eps: its norm's guard.
        backend: "auto", "reference" or "triton".

    Returns:
        X+ in x's shape and dtype, and c [.., d] in the dtype that x and W promote to.

    Raises:
        ValueError: for shapes that do not fit, or a backend that cannot run.
    """
    tokens = check_parts(x, k, v, beta, "v")
    if weight.shape != x.shape[-2:] or gain.shape != x.shape[-2:-1]:
        raise ValueError(
            f"delta_compress expects weight {list(x.shape[-2:])} and gain {list(x.shape[-2:-1])} for x "
            f"{list(x.shape)}, got {list(weight.shape)} and {list(gain.shape)}"
        )
    if choose("delta_compress", backend, x, k, v, beta, weight, gain) == "reference":
        return reference.delta_compress(x, k, v, beta, weight, gain, eps, norm_eps)
    parts = (*flattened(tokens, x, k, v, beta), weight.contiguous(), gain.contiguous())
    new, c, *_ = _forward(*parts, eps, norm_eps)
    return new.view(x.shape), c.view(x.shape[:-1])


@torch.library.custom_op("odenets::delta_compress", mutates_args=())
def _forward(
    x: Tensor, k: Tensor, v: Tensor, beta: Tensor, weight: Tensor, gain: Tensor, eps: float | None, norm_eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """X+, c, and for the backward pass e, the scale of k and the inverse of z's root mean square."""
    from odenets.kernels.delta_compress import triton

    return triton.forward(x, k, v, beta, weight, gain, eps, norm_eps)  # type: ignore[return-value]


@_forward.register_fake
def _(x, k, v, beta, weight, gain, eps, norm_eps):
    c = x.new_empty(x.shape[:2], dtype=torch.promote_types(x.dtype, weight.dtype))
    rest = (x.new_empty(shape, dtype=torch.float32) for shape in (v.shape, beta.shape, beta.shape))
    return torch.empty_like(x), c, *rest


@torch.library.custom_op("odenets::delta_compress_backward", mutates_args=())
def _backward(
    g: Tensor, gc: Tensor, x: Tensor, k: Tensor, v: Tensor, beta: Tensor, weight: Tensor, gain: Tensor,
    e: Tensor, scale: Tensor, inverse: Tensor, eps: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    from odenets.kernels.delta_compress import triton

    gradients = g.contiguous(), gc.contiguous()
    return triton.backward(*gradients, x, k, v, beta, weight, gain, e, scale, inverse, eps)  # type: ignore[return-value]


@_backward.register_fake
def _(g, gc, x, k, v, beta, weight, gain, e, scale, inverse, eps):
    return tuple(torch.empty_like(a) for a in (x, k, v, beta, weight, gain))


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.eps, _ = inputs
    _, _, *rest = output
    ctx.mark_non_differentiable(*rest)
    ctx.save_for_backward(*tensors, *rest)


def _gradients(ctx, g: Tensor, gc: Tensor, *_):
    return *_backward(g, gc, *ctx.saved_tensors, ctx.eps), None, None


_forward.register_autograd(_gradients, setup_context=_save)
