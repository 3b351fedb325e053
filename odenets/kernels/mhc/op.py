"""The stream operators: shapes checked, backend picked, differentiable."""

import torch
from torch import Tensor

from odenets.kernels.backend import choose
from odenets.kernels.mhc import reference

MOST_STREAMS = 8


def aggregate(x: Tensor, pre: Tensor, backend: str = "auto") -> Tensor:
    """u = H_pre X: what a branch reads from the streams (arXiv:2512.24880, eq. for H_pre).

    Args:
        x: streams [.., n, C].
        pre: weights [.., n] (or [n], for all tokens).
        backend: "auto", "reference" or "triton".

    Returns:
        [.., C] in x's dtype, summed in float32 at least.

    Raises:
        ValueError: for shapes that do not fit, or a backend that cannot run.
    """
    check_parts("aggregate", x, {"pre": (pre, (x.shape[-2],))})
    if _choose("aggregate", backend, x, pre) == "reference":
        return reference.aggregate(x, pre)
    return _aggregate(*flat(x, (x, 2), (pre, 1))).view(*x.shape[:-2], x.shape[-1])


def aggregate_through(x: Tensor, pre: Tensor, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """`aggregate`, and X itself for what else is done with it: the gradient of X from there is then added in the pass
    that writes this one, where autograd would read both and write a third.

    Args, errors: as for `aggregate`.

    Returns:
        u [.., C] and x.
    """
    check_parts("aggregate", x, {"pre": (pre, (x.shape[-2],))})
    if _choose("aggregate", backend, x, pre) == "reference":
        return reference.aggregate(x, pre), x
    u, through = _Through.apply(*flat(x, (x, 2), (pre, 1)))
    return u.view(*x.shape[:-2], x.shape[-1]), through.view(x.shape)


def expand(x: Tensor, mixing: Tensor, post: Tensor, f: Tensor, backend: str = "auto") -> Tensor:
    """X+ = H_res X + H_post^T f: mixes the streams and writes a branch's output into them.

    Args:
        x: streams X [.., n, C].
        mixing: H_res [.., n, n] (or [n, n]).
        post: H_post [.., n] (or [n]).
        f: the branch's output [.., C].
        backend: "auto", "reference" or "triton".

    Returns:
        X+ in x's shape and dtype, summed in float32 at least.

    Raises:
        ValueError: for shapes that do not fit, or a backend that cannot run.
    """
    n, C = x.shape[-2:]
    check_parts("expand", x, {"mixing": (mixing, (n, n)), "post": (post, (n,)), "f": (f, (C,))})
    if _choose("expand", backend, x, mixing, post, f) == "reference":
        return reference.expand(x, mixing, post, f)
    return _expand(*flat(x, (x, 2), (mixing, 2), (post, 1), (f, 1))).view(x.shape)


def project(x: Tensor, phi: Tensor, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """m = vec(X) phi and the mean square of vec(X), from one read of X: the logits of all coefficients before their
    scale (arXiv:2512.24880, H~ = (1/r) alpha (vec(X) phi) + b with r^2 that mean square).

    Args:
        x: streams [.., n, C].
        phi: [n C, N].
        backend: "auto", "reference" or "triton".

    Returns:
        m [.., N] and the mean square [..], float32 at least (the kernel: to about 2^-17).

    Raises:
        ValueError: for shapes that do not fit, or a backend that cannot run.
    """
    if x.dim() < 2 or phi.dim() != 2 or phi.shape[0] != x.shape[-2] * x.shape[-1]:
        raise ValueError(f"project expects x [.., n, C] and phi [n C, N], got {list(x.shape)} and {list(phi.shape)}")
    if choose("project", backend, x, phi) == "reference":
        return reference.project(x, phi)
    m, square = _project(x.reshape(-1, phi.shape[0]).contiguous(), phi.contiguous())
    return m.view(*x.shape[:-2], phi.shape[1]), square.view(x.shape[:-2])


def _choose(operator: str, backend: str, x: Tensor, *others: Tensor) -> str:
    if x.shape[-2] > MOST_STREAMS:
        if backend == "triton":
            raise ValueError(f"{operator}: the kernel unrolls up to {MOST_STREAMS} streams, got {x.shape[-2]}")
        return choose(operator, "reference", x)
    return choose(operator, backend, x, *others)


def check_parts(name: str, x: Tensor, parts: dict[str, tuple[Tensor, tuple[int, ...]]]) -> None:
    fits = x.dim() >= 2
    for part, core in parts.values():
        tokens = part.shape[: part.dim() - len(core)]
        fits = fits and part.shape[len(tokens) :] == core and len(tokens) <= x.dim() - 2
        fits = fits and all(a in (1, b) for a, b in zip(tokens[::-1], x.shape[:-2][::-1]))
    if not fits:
        got = ", ".join(f"{key} {list(part.shape)}" for key, (part, _) in parts.items())
        raise ValueError(
            f"{name} expects streams x [.., n, C] and parts over the same tokens, got x {list(x.shape)}, {got}"
        )


def flat(x: Tensor, *parts: tuple[Tensor, int]) -> list[Tensor]:
    """Every part as contiguous [tokens, *core]; the number gives its core dimensions."""
    tokens = x.shape[:-2]
    cores = [(part, part.shape[part.dim() - dims :]) for part, dims in parts]
    return [part.expand(*tokens, *core).reshape(-1, *core).contiguous() for part, core in cores]


@torch.library.custom_op("odenets::aggregate", mutates_args=())
def _aggregate(x: Tensor, pre: Tensor) -> Tensor:
    from odenets.kernels.mhc import triton

    return triton.aggregate(x, pre)


@_aggregate.register_fake
def _(x, pre):
    return x.new_empty(x.shape[0], x.shape[2])


@torch.library.custom_op("odenets::aggregate_backward", mutates_args=())
def _aggregate_backward(g: Tensor, gx: Tensor | None, x: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
    from odenets.kernels.mhc import triton

    return triton.aggregate_backward(g.contiguous(), None if gx is None else gx.contiguous(), x, pre)


@_aggregate_backward.register_fake
def _(g, gx, x, pre):
    return torch.empty_like(x), torch.empty_like(pre)


@torch.library.custom_op("odenets::expand", mutates_args=())
def _expand(x: Tensor, mixing: Tensor, post: Tensor, f: Tensor) -> Tensor:
    from odenets.kernels.mhc import triton

    return triton.expand(x, mixing, post, f)


@_expand.register_fake
def _(x, mixing, post, f):
    return torch.empty_like(x)


@torch.library.custom_op("odenets::expand_backward", mutates_args=())
def _expand_backward(
    g: Tensor, x: Tensor, mixing: Tensor, post: Tensor, f: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from odenets.kernels.mhc import triton

    return triton.expand_backward(g.contiguous(), x, mixing, post, f)


@_expand_backward.register_fake
def _(g, x, mixing, post, f):
    return torch.empty_like(x), torch.empty_like(mixing), torch.empty_like(post), torch.empty_like(f)


@torch.library.custom_op("odenets::project", mutates_args=())
def _project(x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    from odenets.kernels.mhc import triton

    return triton.project(x, phi)


@_project.register_fake
def _(x, phi):
    return x.new_empty(x.shape[0], phi.shape[1], dtype=torch.float32), x.new_empty(x.shape[0], dtype=torch.float32)


@torch.library.custom_op("odenets::project_backward", mutates_args=())
def _project_backward(gm: Tensor, gs: Tensor, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    from odenets.kernels.mhc import triton

    return triton.project_backward(gm.contiguous(), gs.contiguous(), x, phi)


@_project_backward.register_fake
def _(gm, gs, x, phi):
    return torch.empty_like(x), torch.empty_like(phi)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


class _Through(torch.autograd.Function):
    """(x, pre) -> (u, x). A custom operator may not return its input."""

    @staticmethod
    def forward(ctx, x: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, pre)
        return _aggregate(x, pre), x.view_as(x)

    @staticmethod
    def backward(ctx, g: Tensor, gx: Tensor) -> tuple[Tensor, Tensor]:
        return _aggregate_backward(g, gx, *ctx.saved_tensors)


_aggregate.register_autograd(lambda ctx, g: _aggregate_backward(g, None, *ctx.saved_tensors), setup_context=_save)
_expand.register_autograd(lambda ctx, g: _expand_backward(g, *ctx.saved_tensors), setup_context=_save)
_project.register_autograd(lambda ctx, gm, gs: _project_backward(gm, gs, *ctx.saved_tensors), setup_context=_save)
