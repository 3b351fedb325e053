"""Krylov methods on a batch of operators: a few extreme singular values or eigenvalues of matrices never formed.

All take `apply`, a product [B, n] -> [B, m] with one matrix per sample, and keep their basis orthogonal by full
reorthogonalisation (Golub, Van Loan, Matrix Computations, 4th ed., sections 10.1, 10.4 and 10.5).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


class Bidiagonal(NamedTuple):
    """Golub-Kahan: A V = U B with B [B, steps, steps] upper bidiagonal; rest [B], the coupling to the next vector."""

    b: Tensor
    rest: Tensor


class Hessenberg(NamedTuple):
    """Arnoldi: A Q = Q H + rest q e^T with H [B, steps, steps] upper Hessenberg; rest [B]."""

    h: Tensor
    rest: Tensor


def golub_kahan(apply: Product, transpose: Product, start: Tensor, steps: int) -> Bidiagonal:
    """`steps` steps of the Lanczos bidiagonalisation from start [B, n]."""
    right = [_unit(start)]
    product = apply(right[0])
    steps = min(steps, start.shape[1], product.shape[1])
    left: list[Tensor] = []
    alphas, betas = [], []
    for step in range(steps):
        alpha = _extend(left, product)
        alphas.append(alpha)
        beta = _extend(right, transpose(left[-1]), alpha)
        betas.append(beta)
        if step < steps - 1:
            product = apply(right[-1])
    b = torch.diag_embed(torch.stack(alphas, 1))
    if steps > 1:
        b = b + torch.diag_embed(torch.stack(betas[:-1], 1), offset=1)
    return Bidiagonal(b, betas[-1])


def arnoldi(apply: Product, start: Tensor, steps: int) -> Hessenberg:
    """`steps` steps of Arnoldi's method from start [B, n]; for a symmetric operator this is Lanczos' method."""
    steps = min(steps, start.shape[1])
    basis = [_unit(start)]
    h = start.new_zeros(len(start), steps + 1, steps)
    for j in range(steps):
        w = apply(basis[-1])
        h[:, : j + 1, j] = torch.stack([(q * w).sum(1) for q in basis], 1)
        h[:, j + 1, j] = _extend(basis, w, w.norm(dim=1))
    return Hessenberg(h[:, :-1], h[:, -1, -1])


def _extend(basis: list[Tensor], w: Tensor, scale: Tensor | float = 0.0) -> Tensor:
    """Append the unit vector along the part of w orthogonal to the basis; returns the length of that part, [B].

    Where that is rounding beside `scale` the subspace is invariant: the length is 0 and the basis goes on with a new
    direction, so that no zero enters the spectrum that the operator does not have.
    """
    w = _project_out(basis, w)
    length = w.norm(dim=1)
    ended = length <= 100 * torch.finfo(w.dtype).eps * scale
    generator = torch.Generator().manual_seed(len(basis))
    other = torch.randn(w.shape, generator=generator, dtype=torch.float64).to(w)
    fresh = _unit(_project_out(basis, _unit(other)))
    basis.append(torch.where(ended[:, None], fresh, _unit(w)))
    return torch.where(ended, torch.zeros_like(length), length)


def _project_out(basis: list[Tensor], w: Tensor) -> Tensor:
    """w less its part in the span of the orthonormal basis; twice is enough (Kahan, Parlett)."""
    for _ in range(2 if basis else 0):
        stacked = torch.stack(basis)
        w = w - torch.einsum("jb,jbn->bn", torch.einsum("jbn,bn->jb", stacked, w), stacked)
    return w


def _unit(w: Tensor) -> Tensor:
    return w / w.norm(dim=1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
