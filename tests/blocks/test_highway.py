"""The highway block against the formula of Srivastava et al., and the plain control."""

import pytest
import torch

from odenets.blocks import Highway, Plain
from odenets.fields import MLP
from odenets.flows.linear import Diagonal
from tests.blocks.catalog import assert_same_with_gradients, shaken

GATES = {
    "forward_euler": lambda z, h: h * torch.sigmoid(z),
    "backward_euler": lambda z, h: h * z.exp() / (1 + h * z.exp()),
    "exponential": lambda z, h: 1 - (1 + z.exp()) ** (-h),
}


def make(scheme: str, **options) -> Highway:
    torch.manual_seed(0)
    block = Highway(MLP(5, 8, time="concat"), 5, scheme=scheme, **options).double()
    shaken(block)
    return block


@pytest.mark.parametrize("h", [1.0, 0.25])
@pytest.mark.parametrize("scheme", GATES)
def test_step_is_srivastavas_layer_with_the_schemes_gate(scheme: str, h: float):
    block = make(scheme)
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    gate = block.flow.coefficients.rate.out
    T = GATES[scheme](x @ gate.weight.T + gate.bias, h)
    branch = block.flow.coefficients.branch.branch
    expected = (1 - T) * x + T * branch(0.3, x)
    assert_same_with_gradients(block(0.3, x, h), expected, [x, *block.parameters()])
    torch.testing.assert_close(block.gate(0.3, x, h), T)
    if h == 1:
        torch.testing.assert_close(T, torch.sigmoid(x @ gate.weight.T + gate.bias))


def test_limits_of_the_gate_are_the_identity_and_the_plain_layer():
    block = make("backward_euler")
    x = torch.randn(3, 5, dtype=torch.float64)
    gate = block.flow.coefficients.rate.out
    torch.nn.init.zeros_(gate.weight)
    torch.nn.init.constant_(gate.bias, -40.0)
    torch.testing.assert_close(block(0.3, x, 1.0), x)
    torch.nn.init.constant_(gate.bias, 40.0)
    torch.testing.assert_close(block(0.3, x, 1.0), Plain(block.flow.coefficients.branch.branch)(0.3, x, 1.0))


def test_norm_is_applied_to_branch_and_gate_and_the_eigenvalues_are_1_minus_T():
    block = make("exponential", norm=torch.nn.LayerNorm(5, elementwise_affine=False))
    x = torch.randn(5, dtype=torch.float64)
    normed = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
    rate, target = block.coefficients(0.3, x)
    torch.testing.assert_close(target, block.flow.coefficients.branch.branch(0.3, normed))
    torch.testing.assert_close(rate, torch.nn.functional.softplus(block.flow.coefficients.rate.logits(normed)))
    eigenvalues = torch.linalg.eigvalsh(block.scheme.R_matrix(0.5 * Diagonal(rate).matrix()))
    torch.testing.assert_close(eigenvalues, (1 - block.gate(0.3, x, 0.5)).sort().values, rtol=0, atol=1e-12)


def test_initial_gate_is_nearly_closed():
    block = Highway(MLP(32), 32)
    gate = block.gate(0.0, torch.randn(50, 32), 1.0)
    assert gate.mean().item() == pytest.approx(1 / (1 + torch.e**2), abs=0.01)
    assert (block.flow.coefficients.rate.out.bias == -2).all()


def test_plain_layer_is_the_branch_of_the_normed_state_whatever_h():
    torch.manual_seed(0)
    branch = MLP(4, 8, time="concat").double()
    block = Plain(branch, torch.nn.RMSNorm(4, eps=1e-6).double())
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    expected = branch(0.3, x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt())
    assert_same_with_gradients(block(0.3, x, 0.1), expected, [x, *branch.parameters()])
    torch.testing.assert_close(block(0.3, x, 0.1), block(0.3, x, 7.0), rtol=0, atol=0)
