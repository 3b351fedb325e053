"""Hyper-connections against the equations of arXiv:2409.19606 written stream by stream."""

import pytest
import torch
from torch import Tensor

from odenets.blocks import HyperConnections, Residual
from odenets.fields import MLP
from tests.blocks.catalog import assert_same_with_gradients, shaken

N, C = 3, 5


def make(**options) -> HyperConnections:
    torch.manual_seed(0)
    block = HyperConnections(MLP(C, 8, time="concat"), C, streams=N, **options).double()
    shaken(block)
    return block


def coefficients(block: HyperConnections, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A_r [.., n, n], A_m [.., n], B [.., n]."""
    p = block.flow.coefficients
    if p.norm is None:
        return p.a_r.expand(*x.shape[:-2], N, N), p.a_m.expand(*x.shape[:-2], N), p.b.expand(*x.shape[:-2], N)
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p.norm.weight + p.norm.bias
    rows = [normed[..., i, :] for i in range(N)]
    a_r = torch.stack([p.s_a * (row @ p.w_r).tanh() + p.a_r[i] for i, row in enumerate(rows)], -2)
    a_m = torch.stack([p.s_a * (row @ p.w_m).tanh() + p.a_m[i] for i, row in enumerate(rows)], -1)
    b = torch.stack([p.s_b * (row @ p.w_b).tanh() + p.b[i] for i, row in enumerate(rows)], -1)
    return a_r, a_m, b


def hyper_connection(block: HyperConnections, t: float, x: Tensor, h: float = 1.0) -> Tensor:
    a_r, a_m, b = coefficients(block, x)
    read = sum(a_m[..., i, None] * x[..., i, :] for i in range(N))
    f = block.flow.branch.branch(t, read)
    new = []
    for i in range(N):
        mixed = sum(a_r[..., j, i, None] * x[..., j, :] for j in range(N))
        new.append((1 - h) * x[..., i, :] + h * (mixed + b[..., i, None] * f))
    return torch.stack(new, -2)


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("h", [1.0, 0.3])
def test_forward_euler_step_is_the_hyper_connection(dynamic: bool, h: float):
    block = make(dynamic=dynamic)
    x = torch.randn(2, 4, N, C, dtype=torch.float64, requires_grad=True)
    assert_same_with_gradients(block(0.3, x, h), hyper_connection(block, 0.3, x, h), [x, *block.parameters()])


def test_exponential_step_is_the_exponential_of_the_mixing():
    block = make(scheme="exponential")
    x = torch.randn(2, N, C, dtype=torch.float64)
    a_r, a_m, b = coefficients(block, x)
    m = a_r.mT - torch.eye(N, dtype=torch.float64)
    force = b[..., None] * block.flow.branch.branch(0.3, (a_m[..., None] * x).sum(-2))[..., None, :]
    # the last column of the exponential of an augmented matrix is the step with a constant forcing
    augmented = torch.zeros(2, N + C, N + C, dtype=torch.float64)
    augmented[:, :N, :N], augmented[:, :N, N:] = m, force
    grown = torch.linalg.matrix_exp(0.7 * augmented)
    expected = grown[:, :N, :N] @ x + grown[:, :N, N:]
    torch.testing.assert_close(block(0.3, x, 0.7), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(block.step_matrix(0.3, x, 0.7), grown[:, :N, :N], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["a_r", "a_m", "b", "w_r", "w_m", "w_b", "s_a", "s_b"])
def test_every_coefficient_acts_on_the_output(name: str):
    block = make()
    x = torch.randn(2, 4, N, C, dtype=torch.float64)
    before = block(0.3, x, 1.0)
    with torch.no_grad():
        getattr(block.flow.coefficients, name).add_(0.5)
    assert (block(0.3, x, 1.0) - before).abs().max() > 1e-3


def test_initial_values_are_the_papers_and_the_read_stream_follows_the_depth():
    block = HyperConnections(MLP(C), C, streams=N)
    block.place(4, 8)
    p = block.flow.coefficients
    torch.testing.assert_close(p.a_r.data, torch.eye(N))
    torch.testing.assert_close(p.a_m.data, torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(p.b.data, torch.ones(N))
    assert all((w == 0).all() for w in (p.w_r, p.w_m, p.w_b))
    assert p.s_a.item() == p.s_b.item() == pytest.approx(0.01)


@pytest.mark.parametrize("dynamic", [True, False])
def test_at_initialisation_the_sum_of_streams_is_n_times_the_residual_net(dynamic: bool):
    torch.manual_seed(0)
    x = torch.randn(2, 4, C, dtype=torch.float64)
    state, residual = None, x
    for n in range(5):
        branch, norm = MLP(C, 8), torch.nn.RMSNorm(C)
        block = HyperConnections(branch, C, streams=N, norm=norm, dynamic=dynamic).double()
        block.place(n, 5)
        state = block(0.1, block.lift(x) if state is None else state, 0.5)
        residual = Residual(branch, norm)(0.1, residual, 0.5)
    torch.testing.assert_close(block.readout(state), N * residual, rtol=1e-10, atol=1e-10)
