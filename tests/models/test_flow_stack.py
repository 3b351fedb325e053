"""A stack of blocks is a numerical scheme: by hand, in the limit of many steps, and under refinement."""

import itertools
import math

import pytest
import torch
from torch import nn

from odenets.blocks import Block, Residual
from odenets.fields import MLP, Autonomous, TimeVarying
from odenets.models import FlowStack


def euler_by_hand(field, x, T, N):
    h, states = T / N, [x]
    for n in range(N):
        states.append(states[-1] + h * field(torch.tensor(n * h), states[-1]))
    return torch.stack(states)


def test_a_tied_residual_stack_is_forward_euler():
    torch.manual_seed(0)
    field = MLP(3, 16, time="concat")
    stack = FlowStack(lambda: Residual(field), T=2.0, N=7, tied=True)
    x = torch.randn(5, 3)
    expected = euler_by_hand(field, x, 2.0, 7)
    torch.testing.assert_close(stack.trajectory(x), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(stack(x), expected[-1], rtol=1e-6, atol=1e-6)
    assert stack.tied
    assert sum(p.numel() for p in stack.parameters()) == sum(p.numel() for p in field.parameters())


def test_a_stack_with_weights_per_step_is_euler_on_piecewise_constant_weights():
    torch.manual_seed(0)
    T, N = 0.7, 6
    stack = FlowStack(lambda: Residual(MLP(3, 8)), T=T, N=N)
    field = TimeVarying(MLP(3, 8), "piecewise", nodes=N, T=T)
    with torch.no_grad():
        for name, weight in field.template.named_parameters():
            weight.copy_(torch.stack([b.get_parameter(f"branch.{name}") for b in stack.blocks]))
    varying = FlowStack(lambda: Residual(field), T=T, N=N, tied=True)
    x = torch.randn(5, 3)
    torch.testing.assert_close(stack(x), varying(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(stack.refine(5)(x), varying.refine(5)(x), rtol=1e-6, atol=1e-6)


def rotation() -> Autonomous:
    linear = nn.Linear(2, 2, bias=False).double()
    linear.weight.data = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    return Autonomous(linear)


def test_refinement_converges_to_the_exact_flow_at_order_one():
    stack = FlowStack(lambda: Residual(rotation()), T=1.3, N=8, tied=True)
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    exact = torch.tensor([[math.cos(1.3), math.sin(1.3)]], dtype=torch.float64)
    errors = [(stack.refine(2**k)(x) - exact).norm().item() for k in range(3, 7)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(abs(order - 1) < 0.02 for order in orders), orders
    assert errors[-1] < 2e-3


def test_refine_shares_its_parameters_and_leaves_the_stack_as_it_was():
    stack = FlowStack(lambda: Residual(MLP(2)), T=1.0, N=3)
    finer = stack.refine(4)
    assert (finer.N, finer.h, finer.T) == (12, 1 / 12, 1.0)
    assert (stack.N, stack.h, len(stack.times)) == (3, 1 / 3, 4)
    assert all(a is b for a, b in zip(stack.parameters(), finer.parameters()))
    assert [finer.block(n) for n in range(12)] == [stack.block(n // 4) for n in range(12)]


def test_gradients_reach_every_block_and_match_finite_differences():
    torch.manual_seed(0)
    stack = FlowStack(lambda: Residual(MLP(2, 4, depth=1, time="concat")), N=3).double()
    x = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(stack, (x,))
    stack(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in stack.parameters())


def test_compiles_to_one_graph():
    torch.manual_seed(0)
    torch._dynamo.reset()
    stack = FlowStack(lambda: Residual(MLP(3, 8, time="modulate"), nn.LayerNorm(3)), N=3)
    x = torch.randn(5, 3)
    torch.testing.assert_close(torch.compile(stack, backend="eager", fullgraph=True)(x), stack(x))


class TwoStreams(Block):
    """A block whose state is larger than its input: two copies that exchange, read out by their mean."""

    def lift(self, x):
        return torch.stack([x, torch.zeros_like(x)], dim=1)

    def forward(self, t, x, h):
        return x + h * (x.flip(1) - x)

    def readout(self, state):
        return state.mean(1)


def test_a_block_may_lift_the_input_to_a_larger_state():
    stack = FlowStack(TwoStreams, N=4)
    x = torch.randn(5, 3)
    assert stack.trajectory(x).shape == (5, 5, 2, 3)
    torch.testing.assert_close(stack(x), x / 2)  # the exchange keeps the mean


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FlowStack(lambda: Residual(MLP(2)), N=0), r"N >= 1 steps, got 0"),
        (lambda: FlowStack(lambda: Residual(MLP(2)), T=-1.0), r"T > 0, got -1"),
        (lambda: FlowStack(Residual(MLP(2))), r"factory such as .* got Residual"),  # type: ignore[arg-type]
        (lambda: FlowStack(lambda: MLP(2)), r"return a Block, got MLP"),  # type: ignore[arg-type, return-value]
        (lambda: FlowStack(lambda: Residual(MLP(2))).refine(0), r"factor >= 1, got 0"),
    ],
)
def test_wrong_input_is_an_error_that_says_what_came_and_what_is_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
