"""mHC's coefficients: shapes checked, backend picked, differentiable."""

import torch
from torch import Tensor

from odenets.kernels.backend import choose
from odenets.kernels.coefficients import reference

LARGEST = 8


def coefficients(
    m: Tensor, square: Tensor, alpha: Tensor, b: Tensor, n: int, iterations: int = 20, backend: str = "auto"
) -> tuple[Tensor, Tensor, Tensor]:
    """H_pre = sigmoid(H~_pre), H_post = 2 sigmoid(H~_post), H_res = Sinkhorn(H~_res) with
    H~ = alpha m / sqrt(square + 1e-20) + b (arXiv:2512.24880); m and square are what `mhc.project` gives.

    Args:
        m: [.., n^2 + 2n], the parts for H_pre, H_post, H_res in this order.
        square: mean square of the streams [..].
        alpha: one factor for each part [3].
        b: [n^2 + 2n].
        n: number of streams.
        iterations: of Sinkhorn, at least 1.
        backend: "auto", "reference" or "triton" (n up to 8).

    Returns:
        H_pre [.., n], H_post [.., n], H_res [.., n, n], float32 at least.

    Raises:
        ValueError: for shapes that do not fit, fewer than one iteration, or a backend that cannot run.
    """
    N = n * n + 2 * n
    if m.shape[-1:] != (N,) or square.shape != m.shape[:-1] or alpha.shape != (3,) or b.shape != (N,):
        raise ValueError(
            f"coefficients of {n} streams expect m [.., {N}], square [..], alpha [3] and b [{N}], got "
            f"{list(m.shape)}, {list(square.shape)}, {list(alpha.shape)} and {list(b.shape)}"
        )
    if iterations < 1:
        raise ValueError(f"coefficients need at least 1 iteration of Sinkhorn, got {iterations}")
    if n > LARGEST and backend == "triton":
        raise ValueError(f"coefficients: the kernel takes n up to {LARGEST}, got {n}; use backend='reference'")
    if choose("coefficients", "reference" if n > LARGEST else backend, m, square, alpha, b) == "reference":
        return reference.coefficients(m, square, alpha, b, n, iterations)
    flat = (m.reshape(-1, N).contiguous(), square.reshape(-1).contiguous(), alpha.contiguous(), b.contiguous())
    pre, post, res = _forward(*flat, n, iterations)
    tokens = m.shape[:-1]
    return pre.view(*tokens, n), post.view(*tokens, n), res.view(*tokens, n, n)


@torch.library.custom_op("odenets::coefficients", mutates_args=())
def _forward(
    m: Tensor, square: Tensor, alpha: Tensor, b: Tensor, n: int, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    from odenets.kernels.coefficients import triton

    return triton.forward(m, square, alpha, b, n, iterations)


@_forward.register_fake
def _(m, square, alpha, b, n, iterations):
    return tuple(m.new_empty(len(m), *core, dtype=torch.float32) for core in ((n,), (n,), (n, n)))


@torch.library.custom_op("odenets::coefficients_backward", mutates_args=())
def _backward(
    gpre: Tensor, gpost: Tensor, gres: Tensor,
    m: Tensor, square: Tensor, alpha: Tensor, b: Tensor, n: int, iterations: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    from odenets.kernels.coefficients import triton

    gradients = gpre.contiguous(), gpost.contiguous(), gres.contiguous()
    return triton.backward(*gradients, m, square, alpha, b, n, iterations)


@_backward.register_fake
def _(gpre, gpost, gres, m, square, alpha, b, n, iterations):
    return tuple(torch.empty_like(x, dtype=torch.float32) for x in (m, square, alpha, b))


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.n, ctx.iterations = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx, gpre: Tensor, gpost: Tensor, gres: Tensor):
    inputs = ctx.saved_tensors
    found = _backward(gpre, gpost, gres, *inputs, ctx.n, ctx.iterations)
    return *(g.to(x.dtype) for g, x in zip(found, inputs)), None, None


_forward.register_autograd(_gradients, setup_context=_save)
