"""What the gradient methods of a stack keep, in bytes; and what rebuilding costs in digits."""

import pytest
import torch

from benchmarks.memory import PeakMemory
from odenets import blocks as b
from odenets.fields import MLP
from odenets.models import FlowStack
from odenets.models.gradients import Checkpoint, Downdate, Recursive, Reversible, Selective

TOKENS, DIM = 32, 16


def momentum():
    return b.Momentum(MLP(DIM), gamma=0.99)


def streams():
    return b.ManifoldHyperConnections(MLP(DIM), DIM, parametrisation="generator")


def peak(block, gradient, n):
    """Bytes at most alive during forward and backward; the parameters and their gradients are there before."""
    torch.manual_seed(0)
    model = FlowStack(block, N=n, tied=True, gradient=gradient)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    x = torch.randn(TOKENS, DIM, requires_grad=True)
    with PeakMemory() as memory:
        model(x).square().sum().backward()
    return memory.peak


def per_step_and_token(block, gradient, few=10, many=30):
    """Numbers kept per step and token."""
    return (peak(block, gradient, many) - peak(block, gradient, few)) / (many - few) / TOKENS / 4


def test_memory_of_reversible_stacks_does_not_grow_with_depth():
    assert peak(momentum, Reversible(), 1000) <= 1.1 * peak(momentum, Reversible(), 10)
    assert peak(momentum, "autograd", 40) > 3 * peak(momentum, "autograd", 10)  # the meter sees what is kept


def test_memory_of_downdates_is_what_a_step_changes():
    """Times are one 0-dim tensor a step: 1/32 of a number per token."""
    assert per_step_and_token(lambda: b.Delta(MLP(DIM), DIM), Downdate()) == pytest.approx(DIM + 1, abs=0.1)
    assert per_step_and_token(lambda: b.Delta(MLP(DIM), DIM, 4), Downdate()) == pytest.approx(DIM + 4, abs=0.1)
    assert per_step_and_token(streams, Downdate(every=1000)) == pytest.approx(DIM + 16 + 4, abs=0.1)


def test_memory_of_selective_recomputation():
    """The branch's own activations stay; of the operators on streams, C a step, and a state of 4 C every `every`."""
    branch = per_step_and_token(lambda: b.Residual(MLP(DIM)), "autograd")
    kept = per_step_and_token(streams, Selective(every=1000), 10, 20)
    assert kept < branch + 6 * DIM  # its output, and until the backward pass has gone by, the segment's states
    assert kept < 0.6 * per_step_and_token(streams, "autograd", 10, 20)


def test_memory_of_checkpoints_and_recursion():
    residual = lambda: b.Residual(MLP(DIM))  # noqa: E731
    autograd = peak(residual, "autograd", 49)
    assert peak(residual, Checkpoint(), 49) < autograd / 2
    state, few, many = 4 * TOKENS * DIM, peak(residual, Recursive(slots=3), 10), peak(residual, Recursive(slots=3), 60)
    assert many - few < state  # only the times grow
    assert abs(peak(residual, Recursive(slots=8), 60) - many - 5 * state) <= state


def gradient_error(block, gradient, n):
    """Relative error in float32 against float64 autograd of the same stack."""
    found = []
    for dtype, method in ((torch.float64, "autograd"), (torch.float32, gradient)):
        torch.manual_seed(0)
        model = FlowStack(block, T=n, N=n, gradient=method).to(dtype)
        torch.manual_seed(1)
        x = torch.randn(TOKENS, DIM, dtype=torch.float64).to(dtype).requires_grad_()
        (model(x) * torch.randn(TOKENS, DIM, dtype=torch.float64).sign()).sum().backward()
        found.append(torch.cat([p.grad.double().flatten() for p in (x, *model.parameters()) if p.grad is not None]))
    return float((found[1] - found[0]).norm() / found[0].norm())


def test_delta_steps_are_undone_to_rounding_over_many_layers():
    block = lambda: b.Delta(MLP(DIM), DIM, beta_0=0.1)  # noqa: E731
    assert gradient_error(block, Downdate(), 96) < 3 * gradient_error(block, "autograd", 96) + 1e-6


def test_growth_bounds_what_undoing_strong_mixing_loses():
    """Generators of size 1 amplify by about 3 a step: over 40 steps by 1e19, more than any precision has."""

    def mixing():
        block = streams()
        with torch.no_grad():
            block.flow.coefficients.b[-23:].fill_(-3.0)
        return block

    assert gradient_error(mixing, Downdate(), 40) < 1e-4
    lost = gradient_error(mixing, Downdate(every=1000), 40)
    assert not lost < 1e-2
