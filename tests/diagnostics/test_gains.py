"""Gains, contraction and streams where they are known in closed form."""

import math

import pytest
import torch

from odenets.blocks import AttentionResidual, HyperConnections, ManifoldHyperConnections, Momentum, Residual
from odenets.diagnostics import (
    Jacobian,
    contraction,
    depth_gains,
    logarithmic_norm,
    one_sided_lipschitz,
    stream_collapse,
    stream_gains,
)
from odenets.diagnostics.streams import effective_rank
from odenets.fields import MLP
from odenets.models import FlowStack
from tests.diagnostics.stacks import linear_stack

DOUBLE = torch.float64


def test_signal_and_gradient_of_a_linear_growth():
    stack = linear_stack([0.5 * torch.eye(4, dtype=DOUBLE)] * 3, T=3.0)
    gains = depth_gains(stack, torch.randn(5, 4, dtype=DOUBLE))
    torch.testing.assert_close(gains.signal, 1.5 ** torch.arange(4, dtype=DOUBLE))
    torch.testing.assert_close(gains.gradient, 1.5 ** torch.arange(3, -1, -1, dtype=DOUBLE))


def test_the_gradient_of_a_nonlinear_stack_is_autograds():
    torch.manual_seed(0)
    stack = FlowStack(lambda: Residual(MLP(4, 8)), T=2.0, N=3).double()
    x = torch.randn(1, 4, dtype=DOUBLE, requires_grad=True)
    y = stack.trajectory(x)[-1]
    (g,) = torch.autograd.grad(y.square().sum(), x)
    gains = depth_gains(stack, x, loss=lambda y: y.square().sum())
    assert float(gains.gradient[0]) == pytest.approx(float(g.norm() / (2 * y.detach()).norm()))


def test_what_states_share_with_earlier_ones_counts_from_there_on_only():
    torch.manual_seed(0)
    stack = FlowStack(lambda: AttentionResidual(MLP(4, 8), 4), N=1).double()
    x = torch.randn(1, 4, dtype=DOUBLE)
    gains = depth_gains(stack, x, loss=lambda y: y.square().sum())
    (step,) = stack.steps(x)
    block = stack.block(0)
    jacobian = Jacobian(lambda state: block.readout(step(state)), block.lift(x))
    expected = jacobian.transpose(2 * jacobian.value).norm() / (2 * jacobian.value).norm()
    assert float(gains.gradient[0]) == pytest.approx(float(expected))


@pytest.mark.parametrize("kind", ["sinkhorn", "generator"])
def test_products_of_doubly_stochastic_mixings_have_gain_one(kind: str):
    torch.manual_seed(0)
    stack = FlowStack(lambda: ManifoldHyperConnections(MLP(4, 6), 4, parametrisation=kind), T=8.0, N=8).double()
    with torch.no_grad():
        for p in stack.parameters():
            p.add_(0.1 * torch.randn_like(p))
    gains = stream_gains(stack, torch.randn(3, 5, 4, dtype=DOUBLE))
    # Sinkhorn ends on rows: they are exact, columns carry what 20 iterations leave
    for row in (gains.row, gains.total_row):
        torch.testing.assert_close(row, torch.ones(8, dtype=DOUBLE), rtol=0, atol=1e-12)
    for column in (gains.column, gains.total_column, gains.total_norm):
        assert (column - 1).abs().max() < (1e-3 if kind == "sinkhorn" else 1e-12)


def test_gains_of_hyper_connections_are_those_of_their_matrices():
    stack = FlowStack(lambda: HyperConnections(MLP(4, 6), 4, streams=2, dynamic=False), T=2.0, N=2).double()
    mixings = [torch.tensor([[1.0, -3.0], [0.5, 1.0]]).double(), torch.tensor([[0.0, 1.0], [2.0, 0.0]]).double()]
    with torch.no_grad():
        for block, h in zip(stack.blocks, mixings):
            block.flow.coefficients.a_r.copy_(h.T)
    gains = stream_gains(stack, torch.randn(3, 4, dtype=DOUBLE))
    product = mixings[1] @ mixings[0]  # [[0.5, 1], [2, -6]]
    assert gains.row.tolist() == pytest.approx([2.0, 2.0])
    assert gains.column.tolist() == pytest.approx([2.0, 2.0])
    assert gains.total_row.tolist() == pytest.approx([2.0, 4.0])
    assert gains.total_column.tolist() == pytest.approx([2.0, 5.0])
    assert float(gains.total_norm[1]) == pytest.approx(float(torch.linalg.matrix_norm(product, 2)))
    with pytest.raises(ValueError, match="no streams"):
        stream_gains(FlowStack(lambda: Residual(MLP(4, 6))), torch.randn(3, 4))


@pytest.mark.parametrize("limit", [256, 0])
def test_logarithmic_norm_is_the_largest_eigenvalue_of_the_symmetric_part(limit: int):
    a = torch.tensor([[-1.0, 10.0], [0.0, -1.0]], dtype=DOUBLE)  # stable, and yet mu_2 = -1 + 5
    jacobian = Jacobian(lambda x: x @ a.T, torch.randn(3, 2, dtype=DOUBLE))
    torch.testing.assert_close(logarithmic_norm(jacobian, limit), torch.full((3,), 4.0, dtype=DOUBLE))


def test_one_sided_lipschitz_of_a_linear_field_is_attained_along_the_eigenvector():
    a = torch.tensor([[-1.0, 10.0], [0.0, -1.0]], dtype=DOUBLE)
    x, d = torch.randn(1, 2, dtype=DOUBLE), torch.ones(1, 2, dtype=DOUBLE)
    assert float(one_sided_lipschitz(lambda t, y: y @ a.T, 0.0, x, x - d)) == pytest.approx(4.0)
    with pytest.raises(ValueError, match="different states"):
        one_sided_lipschitz(lambda t, y: y, 0.0, x, x)


def test_contraction_of_a_stack_bounds_the_growth_of_differences():
    torch.manual_seed(0)
    matrices = [-torch.eye(4, dtype=DOUBLE) + 0.1 * torch.randn(4, 4, dtype=DOUBLE) for _ in range(4)]
    found = contraction(linear_stack(matrices, T=2.0), torch.randn(2, 4, dtype=DOUBLE))
    expected = [float(torch.linalg.eigvalsh((a + a.T) / 2)[-1]) for a in matrices]
    assert found.mu.tolist() == pytest.approx(expected)
    assert found.bound == pytest.approx(math.exp(0.5 * sum(expected)))
    flow = torch.linalg.multi_dot([torch.linalg.matrix_exp(0.5 * a) for a in matrices[::-1]])
    assert float(torch.linalg.matrix_norm(flow, 2)) <= found.bound < 1


def test_a_step_without_a_field_is_measured_by_its_own_jacobian():
    torch.manual_seed(0)
    stack = FlowStack(lambda: Momentum(MLP(3, 4), gamma=0.5), T=1.0, N=2).double()
    found = contraction(stack, torch.randn(1, 3, dtype=DOUBLE))
    assert found.of_field == [False, False]
    assert found.mu.isfinite().all()


def test_effective_rank_counts_equal_singular_values():
    assert float(effective_rank(torch.eye(4, 7))) == pytest.approx(4)
    assert float(effective_rank(torch.ones(4, 7))) == pytest.approx(1, abs=1e-5)
    p = torch.tensor([0.75, 0.25])
    assert float(effective_rank(torch.diag(p))) == pytest.approx(float(torch.exp(-(p * p.log()).sum())))


def test_streams_that_only_mix_stay_copies_and_collapse_is_seen():
    torch.manual_seed(0)
    stack = FlowStack(lambda: HyperConnections(MLP(6, 6), 6, streams=3, dynamic=False), T=2.0, N=2).double()
    x = torch.randn(4, 6, dtype=DOUBLE)
    found = stream_collapse(stack, x)  # the branch's output is written equally to copies: still copies
    torch.testing.assert_close(found.cosine, torch.ones(3, dtype=DOUBLE))
    torch.testing.assert_close(found.effective_rank, torch.ones(3, dtype=DOUBLE), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        stack.blocks[0].flow.coefficients.b.copy_(torch.tensor([1.0, 0.0, -1.0]))
    found = stream_collapse(stack, x)
    assert found.cosine[1] < 1 - 1e-4
    assert found.effective_rank[1] > 1.01
    with pytest.raises(ValueError, match="hyper-connections"):
        stream_collapse(FlowStack(lambda: Residual(MLP(4, 6))), torch.randn(3, 4))
