"""Sinkhorn-Knopp: shapes checked, backend picked, differentiable through its iterations."""

import torch
from torch import Tensor

from odenets.kernels.backend import choose
from odenets.kernels.sinkhorn import reference

LARGEST = 16


def sinkhorn(logits: Tensor, iterations: int = 20, backend: str = "auto") -> Tensor:
    """Sinkhorn-Knopp: exp(logits) with columns, then rows, normalised `iterations` times (arXiv:2512.24880).

    The rows of the result sum to 1, the columns up to what the truncation leaves.

    The first normalisation of the columns and of the rows is done on the logits: exp overflows float32 above 88, and
    subtracting one maximum of the whole matrix or of a column can leave a row without a number. After these two, every
    column and row holds an entry of at least 1/n^2, so that the others can be linear. Differentiated through its
    iterations: the gradient of the limit is another one.

    Args:
        logits: [.., n, n].
        iterations: at least 1.
        backend: "auto", "reference" or "triton" (n up to 16).

    Returns:
        [.., n, n] in float32 at least.

    Raises:
        ValueError: for matrices that are not square, fewer than one iteration, or a backend that cannot run.
    """
    if logits.dim() < 2 or logits.shape[-1] != logits.shape[-2]:
        raise ValueError(f"sinkhorn expects square matrices [.., n, n], got {list(logits.shape)}.")
    if iterations < 1:
        raise ValueError(f"sinkhorn needs at least 1 iteration, got {iterations}.")
    n = logits.shape[-1]
    if n > LARGEST and backend == "triton":
        raise ValueError(f"sinkhorn: the kernel takes n up to {LARGEST}, got {n}; use backend='reference'")
    if choose("sinkhorn", "reference" if n > LARGEST else backend, logits) == "reference":
        return reference.sinkhorn(logits, iterations)
    return _forward(logits.reshape(-1, n, n).contiguous(), iterations).view(logits.shape)


@torch.library.custom_op("odenets::sinkhorn", mutates_args=())
def _forward(logits: Tensor, iterations: int) -> Tensor:
    from odenets.kernels.sinkhorn import triton

    return triton.forward(logits, iterations)


@_forward.register_fake
def _(logits, iterations):
    return torch.empty_like(logits, dtype=torch.float32)


@torch.library.custom_op("odenets::sinkhorn_backward", mutates_args=())
def _backward(g: Tensor, logits: Tensor, iterations: int) -> Tensor:
    from odenets.kernels.sinkhorn import triton

    return triton.backward(g.contiguous(), logits, iterations)


@_backward.register_fake
def _(g, logits, iterations):
    return torch.empty_like(logits, dtype=torch.float32)


def _save(ctx, inputs, output) -> None:
    logits, ctx.iterations = inputs
    ctx.save_for_backward(logits)


def _gradient(ctx, g: Tensor):
    (logits,) = ctx.saved_tensors
    return _backward(g, logits, ctx.iterations).to(logits.dtype), None


_forward.register_autograd(_gradient, setup_context=_save)
