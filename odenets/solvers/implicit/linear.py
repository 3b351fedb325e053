"""Linear algebra under implicit steps: Jacobians of a field, batched LU of M - c J, and GMRES without any matrix.

A state [*batch, *state] is a batch of separate systems: `batch_dims` says how many leading dimensions number them, and
every system has a Jacobian [D, D] of its own, D = the number of elements of [*state]. Nothing here ever forms a matrix
over batch x state unless batch_dims is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from ..step import Field

_CHUNK = 2**24  # elements of the tangents that are pushed through the field at once


class Linearisation:
    """Derivatives of a field with respect to the state, at any point and without counting as evaluations.

    Forward-mode derivatives where the field has them, reverse-mode ones otherwise; all columns at once by `vmap`, one
    after the other for fields it cannot trace. Which way works is found out once and remembered.

    Args:
        field: f(t, y) -> dy/dt [*batch, *state]; real.
    """

    def __init__(self, field: Field) -> None:
        self.field = getattr(field, "evaluate", field)
        self._forward = self._vmap = True

    def jvp(self, t: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """J v, shaped like y. Through two reverse-mode passes where the field has no forward mode."""
        if self._forward:
            try:
                return jvp(lambda x: self.field(t, x), (y.detach(),), (v,))[1]
            except (RuntimeError, NotImplementedError):
                self._forward = False
        with torch.enable_grad():
            u = torch.zeros_like(y, requires_grad=True)
            pulled = self._pulled(t, y, u)
            if not pulled.requires_grad:
                return torch.zeros_like(y)
            (product,) = torch.autograd.grad(pulled, u, v, allow_unused=True)
        return torch.zeros_like(y) if product is None else product.detach()

    def vjp(self, t: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """J^T v, shaped like y."""
        return self.pullback(t, y)(v)

    def pullback(self, t: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        """v -> J^T v for many v at one point: the field is evaluated once."""
        with torch.enable_grad():
            x = y.detach().requires_grad_(True)
            value = self.field(t, x)

        def pull(v: Tensor) -> Tensor:
            if not value.requires_grad:
                return torch.zeros_like(y)
            (product,) = torch.autograd.grad(value, x, v, retain_graph=True, allow_unused=True)
            return torch.zeros_like(y) if product is None else product

        return pull

    def _pulled(self, t: Tensor, y: Tensor, u: Tensor) -> Tensor:
        x = y.detach().requires_grad_(True)
        value = self.field(t, x)
        if not value.requires_grad:
            return torch.zeros_like(y)
        (product,) = torch.autograd.grad(value, x, u, create_graph=True, allow_unused=True)
        return torch.zeros_like(y) if product is None else product

    def matrix(self, t: Tensor, y: Tensor, batch_dims: int = 0) -> Tensor:
        """The Jacobians [*batch, D, D] at y [*batch, *state], J[..., i, j] = df_i / dy_j.

        t is [], or [batch] where the field takes it so. With batch_dims > 0 the systems must be independent of each
        other: the derivatives of one with respect to another are added to its own, not left out.
        """
        with torch.no_grad():
            if self._vmap:
                try:
                    return self._all_columns(t, y, batch_dims)
                except (RuntimeError, NotImplementedError, TypeError):
                    if self._forward:
                        self._forward = False  # perhaps only forward mode is missing
                        return self.matrix(t, y, batch_dims)
                    self._vmap = False
            return self._rows_in_turn(t, y, batch_dims)

    def _basis(self, y: Tensor, batch_dims: int) -> Tensor:
        """[D, *state]: unit vectors, the same for every system."""
        state = y.shape[batch_dims:]
        return torch.eye(state.numel(), dtype=y.dtype, device=y.device).reshape(-1, *state)

    def _all_columns(self, t: Tensor, y: Tensor, batch_dims: int) -> Tensor:
        batch, basis = y.shape[:batch_dims], self._basis(y, batch_dims)
        size = len(basis)
        chunk = max(1, min(size, _CHUNK // max(y.numel(), 1)))
        y = y.detach()
        if self._forward:
            product = lambda e: jvp(lambda x: self.field(t, x), (y,), (e.expand_as(y),))[1]  # noqa: E731
            columns = vmap(product, chunk_size=chunk)(basis)  # [D, *batch, *state]
            return columns.reshape(size, *batch, size).movedim(0, -1)
        pull = vjp(lambda x: self.field(t, x), y)[1]
        rows = vmap(lambda e: pull(e.expand_as(y))[0], chunk_size=chunk)(basis)
        return rows.reshape(size, *batch, size).movedim(0, -2)

    def _rows_in_turn(self, t: Tensor, y: Tensor, batch_dims: int) -> Tensor:
        pull = self.pullback(t, y)
        rows = [pull(e.expand_as(y)).reshape(*y.shape[:batch_dims], -1) for e in self._basis(y, batch_dims)]
        return torch.stack(rows, dim=-2)

    def independent(self, t: Tensor, y: Tensor) -> bool:
        """Whether the first dimension of y numbers systems that do not influence each other, as far as two random
        directional derivatives near y show: perturbing one half of them must leave the other half alone.
        """
        if y.dim() < 2 or len(y) < 2:
            return False
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(y), generator=generator)
        noise = torch.randn(2, *y.shape, generator=generator, dtype=torch.float32).to(y)
        # off the point itself, where a product of two states may hide its coupling by a zero
        near = y.detach() + 1e-3 * noise[0] * y.detach().abs().mean()
        for half in (order[: len(y) // 2], order[len(y) // 2 :]):
            v = torch.zeros_like(near)
            v[half] = noise[1][half]
            effect = self.jvp(t, near, v)
            effect[half] = 0
            if bool((effect != 0).any()):  # NaN counts as coupled
                return False
        return True


def jacobian(field: Field, t: Tensor, y: Tensor, batch_dims: int = 0) -> Tensor:
    """The Jacobians [*batch, D, D] of a field; see `Linearisation.matrix`."""
    return Linearisation(field).matrix(t, y, batch_dims)


class ShiftedLU:
    """Factors of M - c J for a batch of systems.

    Args:
        jacobian: J [*batch, D, D].
        shift: c (h gamma, say), a number or [*batch]; may be complex.
        mass: M [D, D] or [*batch, D, D]; None is the identity.

    Attributes:
        singular: [*batch] bool: a pivot vanished or is not finite; `solve` is meaningless there.
    """

    def __init__(self, jacobian: Tensor, shift: float | complex | Tensor, mass: Tensor | None = None) -> None:
        if isinstance(shift, Tensor):
            shift = shift[..., None, None]
        matrix = jacobian * -shift
        if mass is None:
            matrix.diagonal(dim1=-2, dim2=-1).add_(1)
        else:
            matrix = matrix + mass
        self.factors, self.pivots, _ = torch.linalg.lu_factor_ex(matrix)
        diagonal = self.factors.diagonal(dim1=-2, dim2=-1)
        self.singular = ~((diagonal != 0) & torch.isfinite(diagonal)).all(-1)

    def solve(self, rhs: Tensor) -> Tensor:
        """x with (M - c J) x = rhs, both [*batch, D]."""
        return torch.linalg.lu_solve(self.factors, self.pivots, rhs.unsqueeze(-1)).squeeze(-1)

    def solve_transposed(self, rhs: Tensor) -> Tensor:
        """x with (M - c J)^T x = rhs (transposed, not conjugated), both [*batch, D]."""
        rhs = rhs.unsqueeze(-1).conj().resolve_conj()
        return torch.linalg.lu_solve(self.factors, self.pivots, rhs, adjoint=True).conj().resolve_conj().squeeze(-1)


def over_systems(mass: Tensor, size: int) -> Tensor:
    """M [n, n] for systems of `size` elements that hold several states [n]: block diagonal [size, size]."""
    if size == len(mass):
        return mass
    copies = torch.eye(size // len(mass), dtype=mass.dtype, device=mass.device)
    return torch.kron(copies, mass)


def moving(h: Tensor) -> Tensor:
    """Step sizes for M - h gamma J with M perhaps singular: samples that stand still (h = 0) get a harmless one."""
    return torch.where(h == 0, torch.ones_like(h), h)


class KrylovResult(NamedTuple):
    """Attributes: x [B, D], the residuals' norms |b - A x| / |b| [B], and the number of operator applications."""

    x: Tensor
    residual: Tensor
    iterations: int


def gmres(
    apply: Callable[[Tensor], Tensor],
    rhs: Tensor,
    *,
    guess: Tensor | None = None,
    rtol: float = 1e-6,
    restart: int = 30,
    max_iterations: int = 300,
    precondition: Callable[[Tensor], Tensor] | None = None,
) -> KrylovResult:
    """Restarted GMRES (Saad and Schultz 1986), right-preconditioned, for B separate systems side by side.

    Every system has its own Krylov space and its own residual; the iteration ends when all are solved.

    Args:
        apply: A, [B, D] -> [B, D].
        rhs: b [B, D], real.
        guess: start, zero if None.
        rtol: wanted |b - A x| / |b| of every system.
        restart: directions kept at once.
        max_iterations: applications of A at most, over all restarts.
        precondition: approximate inverse of A.
    """
    inverse = precondition or (lambda v: v)
    x = torch.zeros_like(rhs) if guess is None else guess
    wanted = rtol * torch.linalg.vector_norm(rhs, dim=-1)  # [B]
    residual = rhs if guess is None else rhs - apply(x)
    used = int(guess is not None)
    while True:
        beta = torch.linalg.vector_norm(residual, dim=-1)
        open_ = beta > wanted
        if used >= max_iterations or not bool(open_.any()):
            break
        step, applied = _arnoldi(apply, inverse, residual, beta, wanted, min(restart, max_iterations - used))
        candidate = x + step
        used += applied + 1
        fresh = rhs - apply(candidate)
        better = torch.linalg.vector_norm(fresh, dim=-1) < beta
        x = torch.where((open_ & better)[:, None], candidate, x)
        residual = torch.where((open_ & better)[:, None], fresh, residual)
        if not bool((open_ & better).any()):
            break
    norm = torch.linalg.vector_norm(rhs, dim=-1)
    return KrylovResult(x, torch.linalg.vector_norm(residual, dim=-1) / norm.where(norm > 0, 1.0), used)


def _arnoldi(apply, inverse, residual: Tensor, beta: Tensor, wanted: Tensor, size: int) -> tuple[Tensor, int]:
    """The correction of one cycle [B, D] and the directions it used."""
    batch, dim = residual.shape
    size = min(size, dim)
    tiny = torch.finfo(residual.dtype).tiny
    basis = residual.new_zeros(batch, size + 1, dim)
    hessenberg = residual.new_zeros(batch, size + 1, size)
    target = residual.new_zeros(batch, size + 1)
    target[:, 0] = beta
    basis[:, 0] = residual / beta.clamp(min=tiny)[:, None]
    count = size
    for j in range(size):
        w = apply(inverse(basis[:, j]))
        for _ in range(2):  # Gram-Schmidt twice is enough
            overlap = torch.einsum("bkd,bd->bk", basis[:, : j + 1], w)
            hessenberg[:, : j + 1, j] += overlap
            w = w - torch.einsum("bkd,bk->bd", basis[:, : j + 1], overlap)
        length = torch.linalg.vector_norm(w, dim=-1)
        hessenberg[:, j + 1, j] = length
        # an exhausted space goes on with zero directions: they add nothing
        alive = length > 1e-14 * hessenberg[:, : j + 2, j].abs().amax(1)
        basis[:, j + 1] = torch.where(alive[:, None], w / length.clamp(min=tiny)[:, None], 0.0)
        weights = _least_squares(hessenberg[:, : j + 2, : j + 1], target[:, : j + 2])
        left = target[:, : j + 2] - torch.einsum("bij,bj->bi", hessenberg[:, : j + 2, : j + 1], weights)
        if not bool((torch.linalg.vector_norm(left, dim=-1) > wanted).any()):
            count = j + 1
            break
    weights = _least_squares(hessenberg[:, : count + 1, :count], target[:, : count + 1])
    return inverse(torch.einsum("bkd,bk->bd", basis[:, :count], weights)), count


def _least_squares(matrix: Tensor, rhs: Tensor) -> Tensor:
    """argmin |H y - r| [B, k] by QR; directions without weight (an exhausted space) get none."""
    q, r = torch.linalg.qr(matrix)
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    dead = diagonal.abs() <= 1e-14 * diagonal.abs().amax(-1, keepdim=True)
    wanted = (q.mT @ rhs.unsqueeze(-1)).squeeze(-1).masked_fill(dead, 0.0)
    r = r + torch.diag_embed(dead.to(r.dtype))
    return torch.linalg.solve_triangular(r, wanted.unsqueeze(-1), upper=True).squeeze(-1)
