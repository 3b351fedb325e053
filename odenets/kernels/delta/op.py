"""The delta operator: shapes checked, backend picked, differentiable."""

import torch
from torch import Tensor

from odenets.kernels.backend import choose
from odenets.kernels.delta import reference


def delta(
    x: Tensor, k: Tensor, v: Tensor, beta: Tensor, eps: float | None = 1e-5, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """`X+ = X + beta k (v^T - k^T X)` with k = k~ / sqrt(|k~|^2 + eps^2) (Deep Delta Learning, arXiv:2601.00417).

    Args:
        x: state X [.., d, d_v].
        k: directions k~ [.., d]; eps = None takes them as they are.
        v: values [.., d_v].
        beta: gates [..].
        eps: guard of the norm.
        backend: "auto", "reference" or "triton".

    Returns:
        X+ in x's shape and dtype, and the error e = v - X^T k [.., d_v] in float32 at least, which `delta_undo` needs.

    Raises:
        ValueError: for shapes that do not fit, or a backend that cannot run.
    """
    tokens = check_parts(x, k, v, beta, "v")
    if choose("delta", backend, x, k, v, beta) == "reference":
        return reference.delta(x, k, v, beta, eps)
    flat = flattened(tokens, x, k, v, beta)
    out, e = _forward(*flat, eps)
    return out.view(x.shape), e.view(*tokens, v.shape[-1])


def delta_undo(
    x: Tensor, k: Tensor, e: Tensor, beta: Tensor, eps: float | None = 1e-5, backend: str = "auto"
) -> Tensor:
    """The state before the step, `X = X+ - beta k e^T` [.., d, d_v], for a backward pass that kept only k~, e and beta.

    Not differentiable. Good to rounding at every beta, where the algebraic inverse divides by 1 - beta.
    """
    tokens = check_parts(x, k, e, beta, "e")
    with torch.no_grad():
        if choose("delta", backend, x, k, e, beta) == "reference":
            return reference.delta_undo(x, k, e, beta, eps)
        return _undo(*flattened(tokens, x, k, e, beta), eps).view(x.shape)


def check_parts(x: Tensor, k: Tensor, v: Tensor, beta: Tensor, name: str) -> torch.Size:
    """The token dimensions; k, v and beta may lack them, or have 1 there."""
    tokens = x.shape[:-2]
    if x.dim() >= 2:
        *_, d, dv = x.shape
        fits = k.shape[-1:] == (d,) and v.shape[-1:] == (dv,)
        for part in (k.shape[:-1], v.shape[:-1], beta.shape):
            fits = fits and len(part) <= len(tokens) and all(a in (1, b) for a, b in zip(part[::-1], tokens[::-1]))
        if fits:
            return tokens
    raise ValueError(
        f"delta expects x [.., d, d_v], k [.., d], {name} [.., d_v] and beta [..], got {list(x.shape)}, "
        f"{list(k.shape)}, {list(v.shape)} and {list(beta.shape)}"
    )


def flattened(tokens: torch.Size, x: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
    def rows(a: Tensor, core: torch.Size) -> Tensor:
        return a.expand(*tokens, *core).reshape(-1, *core).contiguous()

    return rows(x, x.shape[-2:]), rows(k, k.shape[-1:]), rows(v, v.shape[-1:]), rows(beta, torch.Size())


@torch.library.custom_op("odenets::delta", mutates_args=())
def _forward(x: Tensor, k: Tensor, v: Tensor, beta: Tensor, eps: float | None) -> tuple[Tensor, Tensor]:
    from odenets.kernels.delta import triton

    return triton.forward(x, k, v, beta, eps)


@_forward.register_fake
def _(x, k, v, beta, eps):
    return torch.empty_like(x), v.new_empty(v.shape, dtype=torch.float32)


@torch.library.custom_op("odenets::delta_backward", mutates_args=())
def _backward(
    g: Tensor, ge: Tensor | None, x: Tensor, k: Tensor, v: Tensor, beta: Tensor, eps: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from odenets.kernels.delta import triton

    ge = None if ge is None else ge.contiguous()
    return triton.backward(g.contiguous(), ge, x, k, v, beta, eps)


@_backward.register_fake
def _(g, ge, x, k, v, beta, eps):
    return torch.empty_like(x), torch.empty_like(k), torch.empty_like(v), torch.empty_like(beta)


@torch.library.custom_op("odenets::delta_undo", mutates_args=())
def _undo(x: Tensor, k: Tensor, e: Tensor, beta: Tensor, eps: float | None) -> Tensor:
    from odenets.kernels.delta import triton

    return triton.undo(x, k, e, beta, eps)


@_undo.register_fake
def _(x, k, e, beta, eps):
    return torch.empty_like(x)


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _gradients(ctx, g: Tensor | None, ge: Tensor | None):
    x, k, v, beta = ctx.saved_tensors
    if g is None:
        g = torch.zeros_like(x)
    return *_backward(g, ge, x, k, v, beta, ctx.eps), None


_forward.register_autograd(_gradients, setup_context=_save)
