"""Singular values and eigenvalues of Jacobians: dense where the state is small, Krylov where it is large."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odenets.diagnostics.jacobian import Jacobian
from odenets.diagnostics.krylov import arnoldi, golub_kahan
from odenets.diagnostics.result import Result, host
from odenets.diagnostics.trace import trace
from odenets.models import FlowStack

DENSE = 256
"""States of at most so many numbers get a dense Jacobian."""


@dataclass
class SingularValues(Result):
    """Singular values per sample.

    Attributes:
        largest: [B, k], descending.
        smallest: [B, k], ascending. From a Krylov method they are upper bounds, and converge slower than the largest.
        residuals: [B, k] of the largest: |A^T u - sigma v|, 0 where dense.
        method: "dense" or "golub_kahan".
    """

    largest: Tensor
    smallest: Tensor
    residuals: Tensor
    method: str


@dataclass
class Eigenvalues(Result):
    """Eigenvalues per sample, complex.

    Attributes:
        values: [B, k]: all of them where dense; else the Ritz values with the smallest residuals, outermost first.
        residuals: [B, k]: |A y - lambda y|, 0 where dense. For a matrix far from normal a small residual does not
            mean a close eigenvalue.
        method: "dense" or "arnoldi".
    """

    values: Tensor
    residuals: Tensor
    method: str


@dataclass
class LayerSpectra(Result):
    """Singular values of every step's Jacobian on the stack's state, and of the whole stack, input to output."""

    layers: list[SingularValues]
    whole: SingularValues


def singular_values(
    jacobian: Jacobian, k: int = 6, dense_limit: int = DENSE, iterations: int = 48, seed: int = 0
) -> SingularValues:
    """The k largest and smallest singular values of each sample's Jacobian [m, n].

    Args:
        jacobian: the operator.
        k: how many of each; at most min(m, n).
        dense_limit: with min(m, n) up to this the matrix is formed (m backward passes).
        iterations: Golub-Kahan steps otherwise, each a product with J and with J^T.
        seed: of the random start.
    """
    _, m, n = jacobian.shape
    k = min(k, m, n)
    if min(m, n) <= dense_limit:
        values = torch.linalg.svdvals(jacobian.dense().double())
        return SingularValues(host(values[:, :k]), host(values.flip(1)[:, :k]), torch.zeros(len(values), k), "dense")
    steps = max(iterations, k)
    b, rest = golub_kahan(jacobian.apply, jacobian.transpose, random_start(jacobian.state, seed), steps)
    u, values, _ = torch.linalg.svd(b.double())
    residuals = rest.double()[:, None] * u[:, -1, :k].abs()
    return SingularValues(host(values[:, :k]), host(values.flip(1)[:, :k]), host(residuals), "golub_kahan")


def eigenvalues(
    jacobian: Jacobian, k: int = 32, dense_limit: int = DENSE, iterations: int = 48, seed: int = 0
) -> Eigenvalues:
    """Eigenvalues of each sample's square Jacobian: all if it is small, else the k best Ritz values of Arnoldi.

    Raises:
        ValueError: the Jacobian is not square.
    """
    _, m, n = jacobian.shape
    if m != n:
        raise ValueError(f"eigenvalues need a square Jacobian, got {m} x {n}; ask for singular_values")
    if n <= dense_limit:
        values = _outermost_first(torch.linalg.eigvals(jacobian.dense().double()))
        return Eigenvalues(host(values), torch.zeros(values.shape, dtype=torch.float64), "dense")
    h, rest = arnoldi(jacobian.apply, random_start(jacobian.state, seed), max(iterations, k))
    values, vectors = torch.linalg.eig(h.double())
    residuals = rest.double()[:, None] * vectors[:, -1].abs()  # LAPACK's vectors have norm 1
    best = residuals.argsort(dim=1)[:, : min(k, h.shape[1])]
    values, residuals = values.gather(1, best), residuals.gather(1, best)
    order = values.abs().argsort(dim=1, descending=True)
    return Eigenvalues(host(values.gather(1, order)), host(residuals.gather(1, order)), "arnoldi")


def layer_spectra(
    stack: FlowStack, x: Tensor, context: Mapping[str, Tensor] | None = None, k: int = 6, **settings: Any
) -> LayerSpectra:
    """Singular values of the Jacobian of each step at the states that x passes through, and of the whole stack.

    Args:
        stack, x, context: the stack and an input [B, ...] as it takes them.
        k, settings: as for `singular_values`.
    """
    layers = [singular_values(Jacobian(step.map, step.state), k, **settings) for step in trace(stack, x, context)]
    return LayerSpectra(layers, singular_values(Jacobian(lambda y: stack(y, context), x), k, **settings))


def random_start(state: Tensor, seed: int = 0) -> Tensor:
    """A random vector [B, n] like the state, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(state.shape, generator=generator, dtype=torch.float64).to(state)


def _outermost_first(values: Tensor) -> Tensor:
    return values.gather(1, values.abs().argsort(dim=1, descending=True))
