"""Spectra of maps whose Jacobian is known, dense and by Krylov methods."""

import pytest
import torch
from torch import Tensor, nn

from odenets.blocks import AttentionResidual, Delta, Momentum, Residual
from odenets.diagnostics import Jacobian, eigenvalues, layer_spectra, singular_values
from odenets.fields import MLP, Attention
from odenets.models import FlowStack


def linear_map(a: Tensor):
    """x [B, n] -> a x per sample, a [B, m, n]."""
    return lambda x: torch.einsum("bmn,bn->bm", a, x)


def with_singular_values(s: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    n = len(s)
    u, v = (torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0] for _ in range(2))
    return u @ torch.diag(s) @ v.T


@pytest.mark.parametrize("limit", [256, 0])
def test_singular_values_of_a_linear_map_per_sample(limit: int):
    s = torch.linspace(0.5, 3, 40, dtype=torch.float64)
    a = torch.stack([with_singular_values(s, 0), with_singular_values(2 * s, 1)])
    found = singular_values(Jacobian(linear_map(a), torch.randn(2, 40, dtype=torch.float64)), 3, limit, iterations=40)
    assert found.method == ("dense" if limit else "golub_kahan")
    expected = torch.stack([s, 2 * s])
    torch.testing.assert_close(found.largest, expected.flip(1)[:, :3], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.smallest, expected[:, :3], rtol=1e-9, atol=1e-9)


def test_golub_kahan_finds_the_largest_in_few_steps_and_knows_how_well():
    s = torch.cat([torch.linspace(0, 1, 397, dtype=torch.float64), torch.tensor([2.0, 3.0, 4.0]).double()])
    a = with_singular_values(s, 0)[None]
    found = singular_values(Jacobian(linear_map(a), torch.randn(1, 400).double()), k=5, iterations=24)
    assert (found.largest[0, :3] - torch.tensor([4.0, 3.0, 2.0])).abs().max() < 1e-8
    gap = (found.largest[0, :, None] - s).abs().min(1).values
    assert (gap <= found.residuals[0] + 1e-12).all()  # the bound holds for each
    assert found.residuals[0, -1] > 1e-3  # and tells those that have not converged


@pytest.mark.parametrize("limit", [256, 0])
def test_eigenvalues_of_a_rotation_with_decay(limit: int):
    omegas = torch.linspace(1, 5, 10, dtype=torch.float64)
    blocks = [torch.tensor([[-0.1, w], [-w, -0.1]], dtype=torch.float64) for w in omegas]
    a = torch.block_diag(*blocks)[None]
    found = eigenvalues(Jacobian(linear_map(a), torch.randn(1, 20).double()), k=20, dense_limit=limit)
    values = found.values[0]
    assert (values.real + 0.1).abs().max() < 1e-9
    expected = torch.cat([-omegas, omegas]).sort().values
    torch.testing.assert_close(values.imag.sort().values, expected, rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match="square"):
        eigenvalues(Jacobian(linear_map(a[:, :5]), torch.randn(1, 20).double()))


def test_arnoldi_finds_the_outermost_eigenvalues_of_a_large_matrix():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(300, 300, generator=generator, dtype=torch.float64) / 300**0.5  # Ginibre: a disc of radius 1
    a = (a + 4 * torch.eye(300)[0, :, None] * torch.eye(300)[0])[None]  # and one eigenvalue near 4
    found = eigenvalues(Jacobian(linear_map(a), torch.randn(1, 300).double()), k=1, iterations=30)
    outermost = torch.linalg.eigvals(a[0]).abs().max()
    assert found.method == "arnoldi"
    assert abs(found.values[0, 0].abs() - outermost) < 1e-8


def test_an_invariant_subspace_ends_the_iteration_without_a_nan():
    identity = 3 * torch.eye(300, dtype=torch.float64)[None]
    jacobian = Jacobian(linear_map(identity), torch.randn(1, 300).double())
    assert (eigenvalues(jacobian, k=4).values - 3).abs().max() < 1e-12
    found = singular_values(jacobian, k=4)
    assert (found.largest - 3).abs().max() < 1e-12
    assert (found.smallest - 3).abs().max() < 1e-12


def test_products_agree_with_the_dense_jacobian_of_autograd():
    torch.manual_seed(0)
    field = MLP(5, 8, time="concat").double()
    x = torch.randn(3, 5, dtype=torch.float64)
    jacobian = Jacobian(lambda y: y + 0.3 * field(0.2, y), x)
    expected = torch.autograd.functional.jacobian(lambda y: (y + 0.3 * field(0.2, y)).sum(0), x).movedim(1, 0)
    v, u = torch.randn(3, 5).double(), torch.randn(3, 5).double()
    torch.testing.assert_close(jacobian.dense(), expected)
    torch.testing.assert_close(jacobian.apply(v), torch.einsum("bmn,bn->bm", expected, v))
    torch.testing.assert_close(jacobian.transpose(u), torch.einsum("bmn,bm->bn", expected, u))
    torch.testing.assert_close(jacobian._apply_backward(v), jacobian.apply(v))


class Twice(torch.autograd.Function):
    """2 x, without a forward derivative."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


def test_a_map_without_forward_derivative_is_differentiated_backward_twice():
    v = torch.randn(2, 4)
    torch.testing.assert_close(Jacobian(lambda x: Twice.apply(x), torch.randn(2, 4)).apply(v), 2 * v)


def test_attention_has_products_in_both_directions():
    field = Attention(8, 2, causal=True)
    jacobian = Jacobian(lambda x: field(0.0, x), torch.randn(2, 5, 8))
    v, u = torch.randn(2, 40), torch.randn(2, 40)
    torch.testing.assert_close((jacobian.apply(v) * u).sum(1), (jacobian.transpose(u) * v).sum(1), rtol=1e-4, atol=1e-4)


def test_spectra_of_a_residual_stack_of_linear_branches():
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 6, dtype=torch.float64))

        def forward(self, t, x):
            return x @ self.weight.T

    torch.manual_seed(0)
    stack = FlowStack(lambda: Residual(Linear()), T=1.0, N=3)
    found = layer_spectra(stack, torch.randn(2, 6, dtype=torch.float64))
    product = torch.eye(6, dtype=torch.float64)
    for block, layer in zip(stack.blocks, found.layers):
        step = torch.eye(6, dtype=torch.float64) + block.branch.weight.detach() / 3
        torch.testing.assert_close(layer.largest[1], torch.linalg.svdvals(step))
        product = step @ product
    torch.testing.assert_close(found.whole.largest[0], torch.linalg.svdvals(product))


@pytest.mark.parametrize(
    "block", [lambda: Momentum(MLP(4, 6)), lambda: AttentionResidual(MLP(4, 6), 4), lambda: Delta(MLP(4, 6), 4, 2)]
)
def test_states_that_are_tuples_or_grow_have_spectra_too(block):
    stack = FlowStack(block, N=2)
    found = layer_spectra(stack, torch.randn(3, 4))
    assert len(found.layers) == 2
    assert found.whole.largest.shape == (3, 4)
    assert (found.whole.largest > 0).all()
