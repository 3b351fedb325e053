"""Functions of generators: shapes checked, backend picked, differentiable."""

import torch
from torch import Tensor

from odenets.kernels.backend import choose
from odenets.kernels.generator import reference

LARGEST = 8


def resolvent(m: Tensor, backend: str = "auto") -> Tensor:
    """`(I - m)^(-1)` for m = hG: R and Q of backward Euler; with m = hG/2 it is Q of the implicit midpoint rule, whose
    Cayley transform is R = 2 Q - I.

    Without pivoting in the kernel: I - hG with a generator G and h >= 0 is an M-matrix, diagonally dominant, for which
    elimination in any order is stable. Other matrices belong to backend="reference".

    Args:
        m: [.., n, n].
        backend: "auto", "reference" or "triton" (n up to 8).

    Returns:
        [.., n, n] in float32 at least.

    Raises:
        ValueError: for matrices that are not square, or a backend that cannot run.
    """
    if _choose("resolvent", m, backend) == "reference":
        return reference.resolvent(m)
    return _resolvent(_flat(m)).view(m.shape)


def exponential(m: Tensor, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """`e^m` and `phi_1(m) = m^(-1) (e^m - I)`: R and Q of the exponential scheme, by scaling and squaring.

    Args:
        m: [.., n, n].
        backend: "auto", "reference" or "triton" (n up to 8).

    Returns:
        two [.., n, n] in float32 at least.

    Raises:
        ValueError: for matrices that are not square, or a backend that cannot run.
    """
    if _choose("exponential", m, backend) == "reference":
        return reference.exponential(m)
    e, phi = _exponential(_flat(m))
    return e.view(m.shape), phi.view(m.shape)


def _choose(name: str, m: Tensor, backend: str) -> str:
    if m.dim() < 2 or m.shape[-1] != m.shape[-2]:
        raise ValueError(f"{name} expects square matrices [.., n, n], got {list(m.shape)}")
    if m.shape[-1] > LARGEST:
        if backend == "triton":
            raise ValueError(f"{name}: the kernel takes n up to {LARGEST}, got {m.shape[-1]}; use backend='reference'")
        backend = "reference"
    return choose(name, backend, m)


def _flat(m: Tensor) -> Tensor:
    return m.reshape(-1, *m.shape[-2:]).contiguous()


@torch.library.custom_op("odenets::resolvent", mutates_args=())
def _resolvent(m: Tensor) -> Tensor:
    from odenets.kernels.generator import triton

    return triton.resolvent(m)


@_resolvent.register_fake
def _(m):
    return torch.empty_like(m, dtype=torch.float32)


@torch.library.custom_op("odenets::resolvent_backward", mutates_args=())
def _resolvent_backward(g: Tensor, r: Tensor) -> Tensor:
    from odenets.kernels.generator import triton

    return triton.resolvent_backward(g.contiguous(), r)


@_resolvent_backward.register_fake
def _(g, r):
    return torch.empty_like(r)


@torch.library.custom_op("odenets::exponential", mutates_args=())
def _exponential(m: Tensor) -> tuple[Tensor, Tensor]:
    from odenets.kernels.generator import triton

    return triton.exponential(m)


@_exponential.register_fake
def _(m):
    return torch.empty_like(m, dtype=torch.float32), torch.empty_like(m, dtype=torch.float32)


@torch.library.custom_op("odenets::exponential_backward", mutates_args=())
def _exponential_backward(ge: Tensor, gphi: Tensor, m: Tensor) -> Tensor:
    from odenets.kernels.generator import triton

    return triton.exponential_backward(ge.contiguous(), gphi.contiguous(), m)


@_exponential_backward.register_fake
def _(ge, gphi, m):
    return torch.empty_like(m, dtype=torch.float32)


def _save_resolvent(ctx, inputs, output) -> None:
    ctx.dtype = inputs[0].dtype
    ctx.save_for_backward(output)


def _save_matrix(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _gradient_of_exponential(ctx, ge: Tensor, gphi: Tensor) -> Tensor:
    (m,) = ctx.saved_tensors
    return _exponential_backward(ge, gphi, m).to(m.dtype)


_resolvent.register_autograd(
    lambda ctx, g: _resolvent_backward(g, *ctx.saved_tensors).to(ctx.dtype), setup_context=_save_resolvent
)
_exponential.register_autograd(_gradient_of_exponential, setup_context=_save_matrix)
