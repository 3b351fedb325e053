"""The flow of a block by a solver: what the block's own steps tend to."""

import math

import pytest
import torch
from torch import nn

from odenets.blocks import Delta, Highway, HyperConnections, ManifoldHyperConnections, Momentum, Residual
from odenets.fields import MLP, Conv
from odenets.flows import full_step
from odenets.models import FlowODE, FlowStack
from odenets.solvers import Adaptive, FixedStep

D = 6
BLOCKS = {
    "residual": lambda: Residual(MLP(D, 16, time="concat"), nn.RMSNorm(D)),
    "highway": lambda: Highway(MLP(D, 16, time="concat"), D),
    "delta": lambda: Delta(MLP(D, 16, time="concat"), D),
    "delta d_v=3": lambda: Delta(MLP(D, 16, time="concat"), D, value_channels=3),
    "HC": lambda: HyperConnections(MLP(D, 16, time="concat"), D),
    "mHC generator": lambda: ManifoldHyperConnections(MLP(D, 16, time="concat"), D, parametrisation="generator"),
}


def built(name, cls, **arguments):
    torch.manual_seed(0)
    return cls(BLOCKS[name], **arguments).double()


@pytest.fixture
def x():
    return torch.randn(3, 4, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_euler_on_the_residual_flow_is_the_tied_stack(x):
    ode = built("residual", FlowODE, solver=FixedStep("euler", steps=5), T=2.0)
    stack = built("residual", FlowStack, T=2.0, N=5, tied=True)
    torch.testing.assert_close(ode(x), stack(x), rtol=1e-13, atol=1e-13)


def implicit_step(field, t, x, h):
    """x+ with x+ = x + h F(t + h, x+), by MINPACK."""
    from scipy.optimize import fsolve

    def left(y):
        y = torch.from_numpy(y).view_as(x)
        with torch.no_grad():
            return (y - x - h * field(t + h, y)).flatten().numpy()

    return torch.from_numpy(fsolve(left, x.flatten().numpy(), xtol=1e-14)).view_as(x)


def test_backward_euler_on_the_residual_flow_solves_its_equations(x):
    ode = built("residual", FlowODE, solver=FixedStep("implicit_euler", steps=2), T=2.0)
    field, y = ode.field, x
    for t in (0.0, 1.0):
        y = implicit_step(field, torch.tensor(t, dtype=torch.float64), y, 1.0)
    with torch.no_grad():
        torch.testing.assert_close(ode(x), y, rtol=1e-10, atol=1e-10)


def test_a_full_implicit_step_of_a_flow_solves_its_equations(x):
    field = built("delta", FlowODE).field
    with torch.no_grad():
        lifted = field.block.lift(x)
        step = full_step(field, "implicit_euler", 0.3, lifted, 0.2)
        expected = implicit_step(field, torch.tensor(0.3, dtype=torch.float64), lifted, 0.2)
        torch.testing.assert_close(step, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_blocks_steps_tend_to_the_solvers_flow_at_first_order(name, x):
    exact = built(name, FlowODE, solver=Adaptive("tsit5", rtol=1e-9, atol=1e-9))(x)
    errors = [(built(name, FlowStack, N=n, tied=True)(x) - exact).norm().item() for n in (20, 40)]
    assert errors[1] < 0.02 * exact.norm().item()
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.2)


def test_the_adjoint_finds_the_blocks_parameters(x):
    gradients = []
    for gradient in ("autograd", "adjoint"):
        ode = built("delta", FlowODE, solver=Adaptive("dopri5", rtol=1e-9, atol=1e-9), gradient=gradient)
        ode(x).square().sum().backward()
        gradients.append({name: p.grad for name, p in ode.named_parameters()})
    for name, reference in gradients[0].items():
        # weights of lift and readout lie outside the solve, and are reached in both
        assert reference is not None, name
        torch.testing.assert_close(gradients[1][name], reference, rtol=1e-5, atol=1e-8)


def test_images_keep_their_layout():
    ode = FlowODE(lambda: Delta(Conv(5), 5), solver=FixedStep("rk4", steps=2))
    images = torch.randn(2, 5, 4, 4)
    assert ode(images).shape == images.shape


def test_a_step_without_a_flow_is_refused():
    with pytest.raises(ValueError, match="Momentum is a step without a vector field"):
        FlowODE(lambda: Momentum(MLP(D)))
