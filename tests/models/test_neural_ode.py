"""The neural ODE layer: against the flow in closed form, and against the stack it contains as a special case."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from odenets.blocks import Residual
from odenets.fields import MLP, Autonomous, Conv, Pendulum, TimeVarying
from odenets.models import FlowStack, ImageClassifier, NeuralODE
from odenets.solvers import Adaptive, FixedStep, solve

ROTATION = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)


def rotation() -> Autonomous:
    linear = nn.Linear(2, 2, bias=False).double()
    linear.weight.data = ROTATION.clone()
    return Autonomous(linear)


def test_a_tied_residual_stack_equals_the_euler_solver():
    torch.manual_seed(0)
    field = MLP(3, 16, time="concat")
    stack = FlowStack(lambda: Residual(field), T=2.0, N=7, tied=True)
    x = torch.randn(5, 3)
    solved = NeuralODE(field, FixedStep("euler", steps=7), t1=2.0)(x)
    torch.testing.assert_close(stack(x), solved, rtol=1e-6, atol=1e-6)
    solution = solve(Residual(field).field, x, stack.times, solver=FixedStep("euler"))
    torch.testing.assert_close(stack.trajectory(x), solution.ys, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", ["dopri5", Adaptive("tsit5", rtol=1e-7, atol=1e-9), FixedStep("rk4", steps=40)])
def test_the_end_and_the_trajectory_are_the_exact_flow(solver):
    ts = torch.tensor([0.0, 0.4, 1.3], dtype=torch.float64)
    x = torch.randn(5, 2, dtype=torch.float64)
    exact = torch.stack([x @ torch.matrix_exp(t * ROTATION).T for t in ts])
    path = NeuralODE(rotation(), solver, output="trajectory")(x, ts)
    torch.testing.assert_close(path, exact, rtol=0, atol=2e-6)
    torch.testing.assert_close(NeuralODE(rotation(), solver)(x, ts), exact[-1], rtol=0, atol=2e-6)
    torch.testing.assert_close(NeuralODE(rotation(), solver, t1=1.3)(x), exact[-1], rtol=0, atol=2e-6)
    back = NeuralODE(rotation(), solver, t0=1.3, t1=0.0)(exact[-1])
    torch.testing.assert_close(back, x, rtol=0, atol=4e-6)


@pytest.mark.parametrize("gradient", ["autograd", "adjoint"])
def test_gradients_are_those_of_the_exact_flow(gradient):
    # For x' = a x the end state is x e^a: its derivative in a is the end state, in x it is e^a.
    linear = nn.Linear(1, 1, bias=False).double()
    linear.weight.data.fill_(0.7)
    x = torch.tensor([[2.0]], dtype=torch.float64, requires_grad=True)
    model = NeuralODE(Autonomous(linear), Adaptive("dopri5", rtol=1e-9, atol=1e-9), gradient=gradient)
    model(x).sum().backward()
    assert linear.weight.grad is not None
    assert x.grad is not None
    assert linear.weight.grad.item() == pytest.approx(2 * math.exp(0.7), rel=1e-7)
    assert x.grad.item() == pytest.approx(math.exp(0.7), rel=1e-7)


def test_the_interval_is_not_rounded_to_float32():
    # cos has slope 1 in size at the end: an end time off by 1e-8 would show.
    end = NeuralODE(rotation(), Adaptive("dopri8", rtol=1e-12, atol=1e-13), t1=0.7)(
        torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    )
    assert end[0].tolist() == pytest.approx([math.cos(0.7), math.sin(0.7)], abs=1e-11)


def test_the_cost_of_the_last_solve_is_kept_and_its_graph_is_not():
    model = NeuralODE(MLP(3), FixedStep("rk4", steps=5))
    assert model.last_stats is None
    model(torch.randn(4, 3))
    assert model.last_stats is not None
    assert model.last_stats.nfe == 20
    assert not any(isinstance(v, torch.Tensor) and v.requires_grad for v in vars(model.last_stats).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("solver", "slopes"),
    [
        (Adaptive("dopri5", rtol=1e-3, atol=1e-3), [1.0, -2.0, 3.0]),
        # Quarters, which a grid of eight steps hits to the last bit in both directions.
        (FixedStep("rk4", steps=8, perturb=True), [1.0, -2.0, 3.0, 4.0]),
    ],
)
def test_piecewise_weights_are_integrated_exactly_when_no_step_crosses_a_jump(solver, slopes, dtype):
    # x' = slope on equal pieces of [0, 1]: any method is exact that stops at the jumps.
    pieces, change = len(slopes), sum(slopes) / len(slopes)
    field = TimeVarying(Autonomous(nn.Linear(1, 1)), "piecewise", nodes=pieces).to(dtype)
    field.template.get_parameter("module.weight").data.zero_()
    field.template.get_parameter("module.bias").data = torch.tensor(slopes, dtype=dtype).reshape(pieces, 1)
    x = torch.tensor([[0.5]], dtype=dtype)
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
    forward, backward = NeuralODE(field, solver), NeuralODE(field, solver, t0=1.0, t1=0.0)
    torch.testing.assert_close(forward(x), x + change, rtol=0, atol=tolerance)
    torch.testing.assert_close(backward(x), x - change, rtol=0, atol=tolerance)
    assert forward.last_stats is not None
    assert forward.last_stats.rejected == 0


def test_samples_with_their_own_clocks_equal_samples_solved_alone():
    torch.manual_seed(0)
    field = Pendulum(damping=0.2, drive=1.0, drive_frequency=2.0)
    solver = Adaptive("dopri5", rtol=1e-9, atol=1e-9)
    x = torch.randn(4, 2, dtype=torch.float64) * torch.tensor([[0.1], [1.0], [2.0], [3.0]])
    alone = torch.cat([NeuralODE(field, solver, t1=3.0)(sample[None]) for sample in x])
    together = NeuralODE(field, dataclasses.replace(solver, per_sample=True), t1=3.0)(x)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-7)


def test_is_the_flow_of_a_classifier():
    torch.manual_seed(0)
    flow = NeuralODE(Conv(8, norm="group"), FixedStep("rk4", steps=2))
    model = ImageClassifier(flow, channels=8)
    model(torch.randn(2, 1, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_reads_well():
    text = repr(NeuralODE(MLP(3), FixedStep("rk4", steps=8), gradient="adjoint"))
    for part in ("t=(0, 1)", "FixedStep(method='rk4', steps=8", "gradient=Adjoint()", "output='end'", "MLP"):
        assert part in text
    assert "None" not in text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NeuralODE(MLP(2), output="last"), r"output= takes one of .*'end'.* got 'last'"),
        (lambda: NeuralODE(MLP(2), t1=0.0), r"two different finite times, got t0=0.0, t1=0.0"),
        (lambda: NeuralODE(MLP(2), "dopri"), r"dopri5"),
        (lambda: NeuralODE(lambda t, x: -x), r"field as an nn.Module, got function"),  # type: ignore[arg-type]
    ],
)
def test_wrong_input_is_an_error_that_says_what_came_and_what_is_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
