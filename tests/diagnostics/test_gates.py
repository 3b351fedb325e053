"""Gates and step sizes of delta blocks; smoothness of weights over depth."""

import math

import pytest
import torch

from odenets.blocks import Delta, Residual
from odenets.diagnostics import gates, step_sizes, weight_smoothness
from odenets.diagnostics.gates import histogram
from odenets.fields import MLP
from odenets.models import FlowStack
from tests.diagnostics.stacks import linear_stack


def test_a_gate_that_is_set_is_the_gate_that_is_seen():
    stack = FlowStack(lambda: Delta(MLP(4, 6), 4), T=2.0, N=2)
    with torch.no_grad():
        for block, beta in zip(stack.blocks, (0.5, 1.5)):
            block.flow.coefficients.rate.out.weight.zero_()
            block.flow.coefficients.rate.out.bias.fill_(math.log(beta / (2 - beta)))
    first, second = gates(stack, torch.randn(5, 4))
    assert (first.beta.mean, second.beta.mean) == pytest.approx((0.5, 1.5))
    assert (first.reflecting, second.reflecting) == (0.0, 1.0)
    assert first.step.mean == pytest.approx(2 / 3)  # h of the implicit midpoint rule: h / (1 + h/2) = 1/2
    assert first.beta.counts.sum() == 5
    assert first.beta.edges[[0, -1]].tolist() == [0.0, 2.0]
    with pytest.raises(ValueError, match="no delta gate"):
        gates(FlowStack(lambda: Residual(MLP(4, 6))), torch.randn(1, 4))


def test_gates_of_weights_that_vary_in_time_are_those_of_their_time():
    torch.manual_seed(0)
    stack = FlowStack(lambda: Delta(MLP(4, 6), 4), T=1.0, N=4, parameters="piecewise", nodes=2)
    with torch.no_grad():
        rate = stack.blocks[0].template.flow.coefficients.rate.out
        rate.weight.zero_()
        rate.bias.copy_(torch.tensor([[0.0], [5.0]]))
    means = [layer.beta.mean for layer in gates(stack, torch.randn(3, 4))]
    rates = [2 * math.exp(b) / 4 for b in (0, 0, 5, 5)]
    assert means == pytest.approx([r / (1 + r / 2) for r in rates])


def test_histogram_counts_everything_once():
    found = histogram(torch.tensor([0.0, 0.1, 0.9, 1.0, 1.0]), bins=2)
    assert found.counts.tolist() == [2, 3]
    assert histogram(torch.ones(3), bins=4).counts.sum() == 3


@pytest.mark.parametrize("steps", ["fixed", "free", "sum_to_T"])
def test_step_sizes_fixed_and_learned(steps: str):
    stack = FlowStack(lambda: Residual(MLP(4, 6)), T=2.0, N=4, steps=steps)
    assert step_sizes(stack).tolist() == pytest.approx([0.5] * 4)
    if steps == "free":
        with torch.no_grad():
            stack.step_sizes.raw[1] = 3.0
        assert float(step_sizes(stack)[1]) == pytest.approx(math.log1p(math.exp(3.0)))


def test_weights_that_follow_a_smooth_function_change_like_h_and_independent_ones_by_sqrt_2():
    def smooth(n: int) -> float:
        t = torch.arange(n, dtype=torch.float64) / n
        matrices = [torch.eye(3).double() * math.cos(s) + torch.ones(3, 3).double() * math.sin(s) for s in t.tolist()]
        return weight_smoothness(linear_stack(matrices, T=1.0)).mean

    assert smooth(16) / smooth(32) == pytest.approx(2, abs=0.1)
    torch.manual_seed(0)
    independent = weight_smoothness(linear_stack([torch.randn(30, 30) for _ in range(8)], T=1.0))
    assert independent.change[0].tolist() == pytest.approx([independent.of_independent] * 7, abs=0.1)
    assert weight_smoothness(FlowStack(lambda: Residual(MLP(4, 6)), tied=True)).mean == 0


def test_smoothness_of_kinds_and_of_functions_of_time():
    two = FlowStack([lambda: Residual(MLP(4, 6)), lambda: Residual(MLP(4, 8))], N=6)
    found = weight_smoothness(two)
    assert found.change.shape == (2, 2)
    assert all(name[:2] in ("0.", "1.") for name in found.by_name)
    torch.manual_seed(0)
    means = [
        weight_smoothness(FlowStack(lambda: Residual(MLP(4, 6)), N=n, parameters="spline", nodes=4)).mean
        for n in (32, 64)
    ]
    assert 0 < means[1] < 0.7 * means[0]
