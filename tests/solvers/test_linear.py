"""Jacobians, batched factors and GMRES against dense linear algebra written out."""

from __future__ import annotations

import pytest
import torch

from odenets.solvers.implicit.linear import Linearisation, ShiftedLU, gmres, jacobian

F64 = torch.float64


def bilinear(seed=0, batch=5, size=4):
    """A field of separate systems with t per sample, and its Jacobians."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(batch, size, size, generator=generator, dtype=F64)
    t = torch.randn(batch, generator=generator, dtype=F64)
    y = torch.randn(batch, size, generator=generator, dtype=F64)
    field = lambda t, y: torch.einsum("bij,bj->bi", a, y) + t[:, None] * torch.sin(y)  # noqa: E731
    return field, t, y, a + torch.diag_embed(t[:, None] * torch.cos(y))


class NoForward(torch.autograd.Function):
    """tanh without forward mode and without vmap."""

    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * (1 - y**2)


def test_jacobian_of_every_sample():
    field, t, y, exact = bilinear()
    assert torch.allclose(jacobian(field, t, y, 1), exact, atol=1e-14)


def test_jacobian_of_one_coupled_system():
    y = torch.randn(3, 2, dtype=F64)
    field = lambda t, y: t * y * y.sum()  # noqa: E731
    t = torch.tensor(0.7, dtype=F64)
    exact = 0.7 * (y.sum() * torch.eye(6, dtype=F64) + y.reshape(6, 1).expand(6, 6))
    assert torch.allclose(jacobian(field, t, y), exact, atol=1e-14)


@pytest.mark.parametrize(
    "field", [lambda t, y: NoForward.apply(y) * t, lambda t, y: y.tanh() * t * (1 if y.sum().item() < 99 else 0)]
)
def test_fields_that_functorch_cannot_trace(field):
    y = torch.randn(3, 2, dtype=F64)
    t = torch.tensor(0.7, dtype=F64)
    exact = torch.diag_embed(0.7 * (1 - torch.tanh(y) ** 2))
    line = Linearisation(field)
    assert torch.allclose(line.matrix(t, y, 1), exact, atol=1e-14)
    v = torch.randn(3, 2, dtype=F64)
    assert torch.allclose(line.jvp(t, y, v), exact.diagonal(dim1=1, dim2=2) * v, atol=1e-14)
    assert torch.allclose(line.vjp(t, y, v), exact.diagonal(dim1=1, dim2=2) * v, atol=1e-14)


def test_products_with_the_jacobian_and_its_transpose():
    field, t, y, exact = bilinear()
    v = torch.randn(5, 4, dtype=F64)
    line = Linearisation(field)
    assert torch.allclose(line.jvp(t, y, v), torch.einsum("bij,bj->bi", exact, v), atol=1e-14)
    assert torch.allclose(line.vjp(t, y, v), torch.einsum("bji,bj->bi", exact, v), atol=1e-14)


def test_coupling_between_samples_is_noticed():
    field, t, y, _ = bilinear()
    assert Linearisation(field).independent(t, y)
    t = torch.tensor(0.0, dtype=F64)
    assert not Linearisation(lambda t, y: y - y.mean(0)).independent(t, y)
    # at zero the product hides its coupling; nearby it does not
    neighbour = lambda t, y: y * torch.roll(y, 1, 0)  # noqa: E731
    assert not Linearisation(neighbour).independent(t, torch.eye(4, dtype=F64))


@pytest.mark.parametrize("shift", [0.3, 0.3 + 0.2j, torch.linspace(0.1, 1, 5, dtype=F64)])
@pytest.mark.parametrize("mass", [None, torch.diag(torch.tensor([1.0, 2.0, 0.0, 1.0], dtype=F64))])
def test_factors_solve_the_shifted_system_and_its_transpose(shift, mass):
    _, _, y, j = bilinear()
    c = shift[:, None, None] if isinstance(shift, torch.Tensor) else shift
    matrix = (torch.eye(4, dtype=F64) if mass is None else mass) - c * j
    lu = ShiftedLU(j, shift, mass)
    rhs = y.to(matrix.dtype)
    assert torch.allclose(torch.einsum("bij,bj->bi", matrix, lu.solve(rhs)), rhs, atol=1e-12)
    assert torch.allclose(torch.einsum("bji,bj->bi", matrix, lu.solve_transposed(rhs)), rhs, atol=1e-12)
    assert not lu.singular.any()


def test_singular_systems_are_named():
    j = torch.stack([torch.eye(2, dtype=F64), 2 * torch.eye(2, dtype=F64), torch.full((2, 2), float("nan"), dtype=F64)])
    assert ShiftedLU(j, 0.5).singular.tolist() == [False, True, True]


@pytest.mark.parametrize("restart", [60, 8])
def test_gmres_solves_every_sample(restart):
    generator = torch.Generator().manual_seed(1)
    matrix = torch.eye(40, dtype=F64) - 0.1 * torch.randn(6, 40, 40, generator=generator, dtype=F64)
    matrix[0] = torch.eye(40)  # solved at once: its Krylov space is exhausted while the others go on
    rhs = torch.randn(6, 40, generator=generator, dtype=F64)
    rhs[1] = 0
    apply = lambda v: torch.einsum("bij,bj->bi", matrix, v)  # noqa: E731
    result = gmres(apply, rhs, rtol=1e-10, restart=restart, max_iterations=400)
    assert torch.allclose(result.x, torch.linalg.solve(matrix, rhs), atol=1e-8)
    assert result.residual.max() < 1e-10
    nearly = torch.linalg.inv(matrix + 1e-3)
    quick = gmres(apply, rhs, rtol=1e-10, precondition=lambda v: torch.einsum("bij,bj->bi", nearly, v))
    assert quick.iterations < 10 and quick.residual.max() < 1e-10


def test_gmres_says_when_it_did_not_arrive():
    rhs = torch.randn(2, 10, dtype=F64)
    assert (gmres(lambda v: 0 * v, rhs).residual == 1).all()
    cyclic = lambda v: torch.roll(v, 1, -1)  # noqa: E731, the classical worst case: no progress before the last step
    assert (gmres(cyclic, torch.eye(10, dtype=F64)[:1], restart=5, max_iterations=50).residual > 0.9).all()
