"""The joined stream operator: shapes checked, backend picked, differentiable."""

import torch
from torch import Tensor

from odenets.kernels.backend import choose
from odenets.kernels.expand_project import reference
from odenets.kernels.mhc.op import check_parts, expand, flat, project

MOST_STREAMS = 4


def expand_project(
    x: Tensor, mixing: Tensor, post: Tensor, f: Tensor, phi: Tensor, backend: str = "auto"
) -> tuple[Tensor, Tensor, Tensor]:
    """X+ = H_res X + H_post^T f, and of it what the next sublayer's coefficients need: m = vec(X+) phi and the mean
    square of vec(X+) (`mhc.expand`, then `mhc.project`, in one pass over the streams).

    Args:
        x: streams X [.., n, C].
        mixing: H_res [.., n, n] (or [n, n]).
        post: H_post [.., n] (or [n]).
        f: the branch's output [.., C].
        phi: the next sublayer's [n C, N].
        backend: "auto", "reference" or "triton"; more than 4 streams go through the two operators.

    Returns:
        X+ in x's shape and dtype, m [.., N] and the mean square [..], float32 at least.

    Raises:
        ValueError: for shapes that do not fit, or a backend that cannot run.
    """
    n, C = x.shape[-2:]
    check_parts("expand_project", x, {"mixing": (mixing, (n, n)), "post": (post, (n,)), "f": (f, (C,))})
    if phi.dim() != 2 or phi.shape[0] != n * C:
        raise ValueError(f"expand_project expects phi [{n * C}, N] for x {list(x.shape)}, got {list(phi.shape)}")
    if n > MOST_STREAMS:
        new = expand(x, mixing, post, f, backend)
        return new, *project(new, phi, backend)
    if choose("expand_project", backend, x, mixing, post, f, phi) == "reference":
        return reference.expand_project(x, mixing, post, f, phi)
    parts = flat(x, (x, 2), (mixing, 2), (post, 1), (f, 1))
    new, m, square = _forward(*parts, phi.contiguous())
    return new.view(x.shape), m.view(*x.shape[:-2], phi.shape[1]), square.view(x.shape[:-2])


@torch.library.custom_op("odenets::expand_project", mutates_args=())
def _forward(x: Tensor, mixing: Tensor, post: Tensor, f: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from odenets.kernels.expand_project import triton

    return triton.forward(x, mixing, post, f, phi)


@_forward.register_fake
def _(x, mixing, post, f, phi):
    m = x.new_empty(x.shape[0], phi.shape[1], dtype=torch.float32)
    return torch.empty_like(x), m, x.new_empty(x.shape[0], dtype=torch.float32)


@torch.library.custom_op("odenets::expand_project_backward", mutates_args=())
def _backward(
    g: Tensor, gm: Tensor, gs: Tensor, x: Tensor, mixing: Tensor, post: Tensor, f: Tensor, phi: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    from odenets.kernels.expand_project import triton

    return triton.backward(g.contiguous(), gm.contiguous(), gs.contiguous(), x, mixing, post, f, phi)


@_backward.register_fake
def _(g, gm, gs, x, mixing, post, f, phi):
    return tuple(torch.empty_like(a) for a in (x, mixing, post, f, phi))


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


_forward.register_autograd(lambda ctx, g, gm, gs: _backward(g, gm, gs, *ctx.saved_tensors), setup_context=_save)
