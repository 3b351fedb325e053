"""flow x scheme x branch: the general block against a dense reference, token by token."""

import functools
import math

import pytest
import torch

from odenets.blocks import DecayFlow, DeltaRuleFlow, RelaxationFlow, RotationFlow, Semilinear
from odenets.fields import MLP, Conv
from odenets.flows import ResidualFlow
from odenets.models import FlowODE, FlowStack
from odenets.solvers import Adaptive, FixedStep
from tests.blocks.catalog import assert_same_with_gradients, shaken
from tests.flows.dense import SCHEME_NAMES, dense_step

DIM = 5
FLOWS = {
    "residual": ResidualFlow,
    "decay": functools.partial(DecayFlow, dim=DIM, rate=0.7),
    "relaxation": functools.partial(RelaxationFlow, dim=DIM),
    "rotation": functools.partial(RotationFlow, dim=DIM, gamma=0.1),
    "delta": functools.partial(DeltaRuleFlow, dim=DIM),
}


def make(flow: str, scheme: str = "backward_euler", **options) -> Semilinear:
    torch.manual_seed(0)
    block = Semilinear(MLP(DIM, 8, time="concat"), FLOWS[flow], scheme, **options).double()
    shaken(block)
    return block


def dense_parts(block: Semilinear, name: str, t: float, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A [d, d] and b [d] at one token x [d], from the equations in the docstrings."""
    flow, branch = block.flow, block.flow.branch.branch
    eye = torch.eye(DIM, dtype=x.dtype)
    if name == "residual":
        return 0 * eye, branch(t, x)
    if name == "decay":
        return -torch.diag((1 + flow.logit.exp()).log()), branch(t, x)
    if name == "relaxation":
        tau = (1 + (flow.logits.weight @ x + flow.logits.bias).exp()).log()
        return -torch.diag(tau), tau * branch(t, x)
    if name == "rotation":
        return flow.weight - flow.weight.T - 0.1 * eye, branch(t, x)
    c = x / (x.square().mean() + 1e-6).sqrt() * flow.norm.weight
    k = branch(t, c)
    k = k / (k @ k + 1e-10).sqrt()
    rate = 2 * (flow.logits.weight @ c + flow.logits.bias).exp()
    return -rate * torch.outer(k, k), rate * k * (flow.value.weight @ c)


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
@pytest.mark.parametrize("name", FLOWS)
def test_every_scheme_steps_along_every_flow_as_the_dense_formula_does(name: str, scheme: str):
    block = make(name, scheme)
    x = torch.randn(3, DIM, dtype=torch.float64)
    with torch.no_grad():
        actual = block.readout(block(0.3, block.lift(x), 0.6))
        for token, result in zip(x, actual):
            torch.testing.assert_close(
                result, dense_step(scheme, 0.6, *_with_state(block, name, token)), rtol=1e-9, atol=1e-10
            )


def _with_state(block: Semilinear, name: str, token: torch.Tensor):
    a, b = dense_parts(block, name, 0.3, token)
    return a, token, b


@pytest.mark.parametrize("name", FLOWS)
def test_backward_euler_and_its_gradients_are_those_of_a_linear_solve(name: str):
    block = make(name)
    x = torch.randn(2, DIM, dtype=torch.float64, requires_grad=True)
    rows = []
    for token in x:
        a, b = dense_parts(block, name, 0.3, token)
        rows.append(torch.linalg.solve(torch.eye(DIM, dtype=a.dtype) - 0.6 * a, token + 0.6 * b))
    actual = block.readout(block(0.3, block.lift(x), 0.6))
    assert_same_with_gradients(actual, torch.stack(rows), [x, *block.parameters()], 1e-9)


@pytest.mark.parametrize("name", FLOWS)
def test_a_stack_of_small_steps_tends_to_the_flow_solved(name: str):
    block = make(name, "exponential")
    x = torch.randn(2, DIM, dtype=torch.float64)
    with torch.no_grad():
        exact = FlowODE(lambda: block, Adaptive("dopri8", rtol=1e-11, atol=1e-12))(x)
        errors = [
            float((FlowStack(lambda: block, T=1.0, N=n, tied=True)(x) - exact).norm() / exact.norm()) for n in (20, 40)
        ]
    assert 0.9 < math.log2(errors[0] / errors[1]) < 1.15
    assert errors[1] < 0.1


def test_rotation_keeps_the_norm_only_where_the_scheme_does():
    x = torch.randn(4, DIM, dtype=torch.float64)
    for scheme, kept in (("implicit_midpoint", True), ("exponential", True), ("forward_euler", False)):
        block = Semilinear(_Still(), functools.partial(RotationFlow, dim=DIM), scheme).double()
        ratio = (block(0.0, x, 1.0).norm(dim=-1) / x.norm(dim=-1)).detach()
        assert bool(torch.allclose(ratio, torch.ones_like(ratio), atol=1e-12)) is kept


class _Still(torch.nn.Module):
    def forward(self, t, x):
        return torch.zeros_like(x)


@pytest.mark.parametrize("name", FLOWS)
def test_images_have_their_channels_moved_there_and_back(name: str):
    torch.manual_seed(0)
    block = Semilinear(Conv(DIM, 6), FLOWS[name])
    x = torch.randn(2, DIM, 4, 3)
    assert FlowStack(lambda: block, N=3, tied=True)(x).shape == x.shape
    one_step = FlowODE(lambda: block, FixedStep("euler", steps=1))(x)
    euler = Semilinear(block.flow.branch.branch, lambda branch: block.flow, "forward_euler")
    torch.testing.assert_close(one_step, euler.readout(euler(0.0, euler.lift(x), 1.0)))


def test_initial_rates_are_those_asked_for():
    assert DecayFlow(_Still(), 3, rate=2.5).rate.detach().tolist() == pytest.approx([2.5] * 3)
    assert DecayFlow(_Still(), 3, rate=50.0).rate.detach().tolist() == pytest.approx([50.0] * 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DecayFlow(_Still(), 3, rate=0.0), "rate > 0, got 0"),
        (lambda: RotationFlow(_Still(), 3, gamma=-1.0), "gamma >= 0, got -1"),
        (lambda: Semilinear(_Still(), lambda branch: branch), "factory of a SemilinearFlow, got one of FeaturesLast"),
        (lambda: Semilinear(_Still(), ResidualFlow, step="whole"), "frozen, half_frozen, got 'whole'"),
    ],
)
def test_wrong_arguments_are_refused(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
