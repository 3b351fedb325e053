"""Measured orders and reconstruction errors of stacks of which they are known."""

import pytest
import torch

from odenets.blocks import (
    Delta,
    Hamiltonian,
    Leapfrog,
    LinearMultistep,
    Momentum,
    Residual,
    RevNet,
    RungeKuttaBlock,
)
from odenets.diagnostics import measured_order, reconstruction
from odenets.fields import MLP
from odenets.models import FlowStack, NeuralODE
from odenets.solvers import FixedStep

BLOCKS = [
    ("residual", lambda: Residual(MLP(4, 8, time="concat")), 1),
    ("delta", lambda: Delta(MLP(4, 8, time="concat"), 4), 1),
    ("delta half frozen", lambda: Delta(MLP(4, 8, time="concat"), 4, step="half_frozen", coefficient="exact"), 2),
    ("leapfrog", lambda: Leapfrog(lambda: MLP(4, 8, time="concat")), 2),
    ("rk4", lambda: RungeKuttaBlock(MLP(4, 8, time="concat"), method="rk4"), 4),
]


@pytest.mark.parametrize(("block", "order"), [b[1:] for b in BLOCKS], ids=[b[0] for b in BLOCKS])
def test_stacks_show_the_order_of_their_step(block, order: int):
    torch.manual_seed(0)
    stack = FlowStack(block, T=1.0, N=4)  # weights of their own: a field that jumps where the steps end
    found = measured_order(stack, torch.randn(5, 4), factors=(2, 4, 8, 16))
    assert found.order == pytest.approx(order, abs=0.25)
    assert found.steps.tolist() == pytest.approx([0.125, 0.0625, 0.03125, 0.015625])


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_neural_odes_show_the_order_of_their_method(method: str, order: int):
    torch.manual_seed(0)
    ode = NeuralODE(MLP(4, 8, time="concat"), FixedStep(method, steps=4))
    assert measured_order(ode, torch.randn(5, 4)).order == pytest.approx(order, abs=0.25)


def test_what_has_no_order_is_refused():
    with pytest.raises(ValueError, match="chooses its steps"):
        measured_order(NeuralODE(MLP(4, 8), "dopri5"), torch.randn(2, 4))
    with pytest.raises(ValueError, match="one ratio"):
        measured_order(FlowStack(lambda: Residual(MLP(4, 8))), torch.randn(2, 4), factors=(1, 2, 3))


@pytest.mark.parametrize(
    "block", [lambda: Leapfrog(lambda: MLP(4, 8)), lambda: RevNet(lambda: MLP(4, 8)), lambda: Hamiltonian(4)]
)
def test_reversible_stacks_are_undone_to_rounding(block):
    torch.manual_seed(0)
    found = reconstruction(FlowStack(block, T=1.0, N=8), torch.randn(6, 4))
    assert found.single.shape == (9,)
    assert found.single[-1] == 0
    assert 0 < found.single[0] < 1e-5
    assert 0 < found.double[0] < 1e-13


def test_momentum_forgets_and_the_loss_of_digits_is_seen():
    torch.manual_seed(0)
    stack = FlowStack(lambda: Momentum(MLP(4, 8), gamma=0.5), T=20.0, N=20)
    found = reconstruction(stack, torch.randn(6, 4))
    # Each step back doubles the rounding error of v, which moves x: 2^20 in all
    assert found.single[0] > 1e4 * torch.finfo(torch.float32).eps
    assert found.double[0] < 1e-6
    with pytest.raises(ValueError, match="LinearMultistep is not a reversible"):
        reconstruction(FlowStack(lambda: LinearMultistep(MLP(4, 8))), torch.randn(2, 4))
