"""Flows under exponential methods: the same field, its linear part integrated exactly, the method's order."""

import math

import pytest
import torch

from odenets.blocks import Delta, Highway, ManifoldHyperConnections, Residual
from odenets.fields import MLP
from odenets.flows import (
    DeltaFlow,
    DiagonalFlow,
    HighwayFlow,
    ResidualFlow,
    SkewFlow,
    StreamFlow,
    semilinear_field,
)
from odenets.models import FlowODE
from odenets.solvers import FixedStep, InputError, solve

F64 = torch.float64
B, T, N, C = 2, 3, 4, 5


def values(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def unit(x):
    return x / x.square().sum(-1, keepdim=True).sqrt()


def generator(x):
    """Rows and columns sum to 0: a mixture of the three shifts with rates that depend on the state."""
    rates = torch.nn.functional.softplus(x.mean(-1)[..., :3])[..., None, None]
    eye = torch.eye(N, dtype=x.dtype)
    return sum(rates[..., i, :, :] * (eye.roll(i + 1, 0) - eye) for i in range(3))


BIAS, MIX = values(C, seed=1), values(C, C, seed=2)
FLOWS = {
    "diagonal": (lambda: DiagonalFlow(lambda t, x: (BIAS.exp(), torch.sin(t + x))), (B, C)),
    "highway, rates per token": (lambda: HighwayFlow(lambda t, x: (x + t).sigmoid(), lambda t, x: x.cos()), (B, T, C)),
    "skew, one matrix": (lambda: SkewFlow(lambda t, x: (MIX, torch.sin(t + x)), 0.3), (B, T, C)),
    "skew per token": (lambda: SkewFlow(lambda t, x: (MIX * (x.sum(-1) * t).cos()[..., None, None], None)), (B, T, C)),
    "streams": (
        lambda: StreamFlow(
            lambda t, x: (generator(x), x.mean(-1).softmax(-1), x.mean(-1).sigmoid()), lambda t, u: torch.sin(u + t)
        ),
        (B, T, N, C),
    ),
    "delta": (lambda: DeltaFlow(lambda t, x: (unit(x.sum(-1) + 3), x[..., 0, :].cos() + t)), (B, T, N, C)),
    "residual": (lambda: ResidualFlow(lambda t, x: torch.sin(x + t)), (B, C)),
}


@pytest.mark.parametrize("name", FLOWS)
def test_the_field_is_the_flow_wherever_its_linear_part_was_taken(name):
    make, shape = FLOWS[name]
    flow, x, elsewhere = make(), values(*shape), values(*shape, seed=3)
    field = semilinear_field(flow, torch.tensor(0.2, dtype=F64), x)
    t = torch.tensor(0.9, dtype=F64)
    torch.testing.assert_close(field(t, elsewhere), flow(t, elsewhere), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("method", "order"), [("etdrk2", 2), ("etdrk4", 4)])
@pytest.mark.parametrize("name", FLOWS)
def test_exponential_methods_reach_their_order_on_flows(name, method, order):
    """Against dopri8 on the flow itself."""
    make, shape = FLOWS[name]
    flow, x = make(), values(*shape)
    exact = solve(flow, x, (0.0, 1.0), solver="dopri8", rtol=1e-12, atol=1e-12).ys[-1]
    field, errors = semilinear_field(flow, 0.0, x), []
    for steps in (20, 40):
        found = solve(field, x, (0.0, 1.0), solver=FixedStep(method, steps=steps)).ys[-1]
        errors.append(float((found - exact).norm()))
    if errors[1] < 1e-12:  # the skew flow without forcing and with a constant matrix is exact, say
        return
    assert math.log2(errors[0] / errors[1]) > order - 0.35, errors


def test_a_constant_linear_part_leaves_the_forcing_alone_and_stiff_rates_are_integrated_exactly():
    """x' = -tau (x - sin t) + cos t with rates up to 1e6, ten steps; x = sin t + e^(-tau t) (x0 - sin 0)."""
    tau = torch.tensor([1.0, 1e3, 1e6], dtype=F64)
    flow = DiagonalFlow(lambda t, x: (tau, tau * torch.sin(t) + torch.cos(t) + 0 * x))
    x0 = torch.tensor([0.5, -1.0, 2.0], dtype=F64)
    field = semilinear_field(flow, 0.0, x0)
    t, x = torch.tensor(0.7, dtype=F64), values(3)
    assert torch.equal(field.nonlinear(t, x), flow.freeze(t, x).forcing)
    found = solve(field, x0, (0.0, 1.0), solver=FixedStep("etdrk4", steps=10)).ys[-1]
    exact = torch.sin(torch.ones((), dtype=F64)) + torch.exp(-tau) * x0
    assert torch.allclose(found, exact, rtol=0, atol=2e-4)
    assert not torch.isfinite(solve(flow, x0, (0.0, 1.0), solver=FixedStep("rk4", steps=100), throw=False).ys[-1]).all()


BLOCKS = {
    "highway": lambda: Highway(MLP(C, 16, time="concat"), C),
    "delta": lambda: Delta(MLP(C, 16, time="concat"), C, value_channels=3),
    "mHC": lambda: ManifoldHyperConnections(MLP(C, 16, time="concat"), C, parametrisation="generator"),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_solved_and_differentiated_by_exponential_methods(name):
    """Values and gradients of input and parameters against dopri8."""
    x = values(B, T, C).requires_grad_()
    found = []
    for solver, gradient in (
        (FixedStep("etdrk4", steps=20), "autograd"),
        (FixedStep("etdrk4", steps=20), "checkpoint"),
        ("dopri8", "autograd"),
    ):
        torch.manual_seed(0)
        ode = FlowODE(BLOCKS[name], solver, gradient).double()
        y = ode(x)
        grads = torch.autograd.grad(y.square().sum(), [x, *ode.parameters()], allow_unused=True)
        found.append([y, *(g for g in grads if g is not None)])
    for mine, again, exact in zip(*found, strict=True):
        torch.testing.assert_close(mine, exact, rtol=2e-5, atol=2e-5 * float(exact.detach().abs().max()))
        torch.testing.assert_close(mine, again, rtol=1e-12, atol=1e-12)


def test_a_plain_flow_without_a_held_part_is_refused():
    flow = FLOWS["diagonal"][0]()
    with pytest.raises(InputError, match="needs a field with a linear part"):
        solve(flow, values(B, C), (0.0, 1.0), solver=FixedStep("etdrk4", steps=2))
    with pytest.raises(ValueError, match="Residual has none"):
        FlowODE(lambda: Residual(MLP(C, 16)), FixedStep("etdrk4", steps=2))(values(B, C).float())
