"""Gradients of implicit steps: finite differences, explicit steps, closed forms; second derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from odenets import solve
from odenets.solvers import Adaptive, FixedPoint, FixedStep, InputError, Newton, NewtonKrylov

from .stiff import robertson

F64 = torch.float64
Y0 = torch.tensor([[0.3, -0.8], [0.5, 0.1]], dtype=F64)
W = torch.tensor([[-1.0, 0.7], [0.2, -0.5]], dtype=F64)
TS = torch.tensor([0.1, 0.9], dtype=F64)


def end(solver):
    """The state at the end as a function of start, parameters and times; the field depends on time."""

    def run(y0, w, ts):
        field = lambda t, y: torch.tanh(y @ w.T) + (torch.cos(2 * t)[..., None] if t.dim() else torch.cos(2 * t)) * y  # noqa: E731
        return solve(field, y0, ts, solver=solver).ys[-1]

    return run


def inputs():
    return tuple(x.clone().requires_grad_(True) for x in (Y0, W, TS))


CASES = [
    FixedStep("implicit_euler", steps=2),
    FixedStep("radauIIA5", steps=1),
    FixedStep("trbdf2", steps=1),
    FixedStep("kvaerno5", steps=1),
    FixedStep("gl4", steps=1, nonlinear=NewtonKrylov(dense_limit=1)),
    FixedStep("trapezoid", steps=1, nonlinear=FixedPoint(dense_limit=1)),
    Adaptive("radauIIA5", rtol=1e-2, atol=1e-1, first_step=1.0, max_step=1.0, nonlinear=Newton(kappa=1e-12)),
]


@pytest.mark.parametrize("solver", CASES, ids=lambda s: f"{type(s).__name__}-{s.method}")
def test_gradcheck_for_start_parameters_and_times(solver):
    # to 1e-5: finite differences also see the adaptive methods change their steps
    assert gradcheck(end(solver), inputs(), eps=1e-6, atol=1e-5)


def test_second_derivatives_on_request():
    solver = FixedStep("trbdf2", steps=1, nonlinear=Newton(twice_differentiable=True))
    assert gradgradcheck(end(solver), inputs(), eps=1e-6, atol=1e-5)


def test_second_derivatives_are_refused_otherwise():
    y0, w, ts = inputs()
    (first,) = torch.autograd.grad(end(FixedStep("gl4", steps=1))(y0, w, ts).sum(), y0, create_graph=True)
    with pytest.raises(InputError, match="twice_differentiable"):
        first.sum().backward()


def test_gradient_of_a_linear_step_is_the_derivative_of_its_stability_function():
    """d/da of (1 - h a)^{-n} y0 is n h (1 - h a)^{-n-1} y0, however stiff."""
    a = torch.tensor(-1e4, dtype=F64, requires_grad=True)
    y = solve(lambda t, y: a * y, torch.ones(1, dtype=F64), (0.0, 1e-3), solver="implicit_euler", steps=5).ys[-1]
    y.sum().backward()
    h = 2e-4
    assert float(a.grad) == pytest.approx(5 * h * (1 + 1e4 * h) ** -6, rel=1e-10)


def test_gradient_of_a_coupled_batch_that_was_taken_for_separate_systems():
    """A coupling that the first step's Jacobian does not show (its coefficient is zero then) does not spoil gradients."""
    y0 = torch.tensor([[0.3], [0.6], [-0.2]], dtype=F64)

    def run(y0):
        field = lambda t, y: -y + 0.3 * torch.relu(t - 0.4) * torch.sin(y.sum())  # noqa: E731
        return solve(field, y0, (0.0, 1.0), solver=FixedStep("implicit_midpoint", steps=3)).ys[-1]

    assert gradcheck(run, (y0.requires_grad_(True),), eps=1e-6, atol=1e-7)


def test_stiff_gradient_against_autograd_through_tiny_explicit_steps():
    rate = torch.tensor(1.3, dtype=F64)
    y0 = torch.tensor([1.0, 0, 0], dtype=F64)
    grads = []
    for settings in ({"solver": "radauIIA5", "rtol": 1e-9, "atol": 1e-13}, {"solver": "rk4", "steps": 600}):
        r, y = rate.clone().requires_grad_(True), y0.clone().requires_grad_(True)
        ys = solve(robertson, y, (0.0, 0.3), args=(r,), **settings).ys[-1]
        (ys / torch.tensor([1.0, 3e-5, 1e-2], dtype=F64)).sum().backward()
        assert r.grad is not None and y.grad is not None
        grads.append(torch.cat([r.grad[None], y.grad]))
    assert torch.allclose(grads[0], grads[1], rtol=1e-5)


def test_memory_does_not_hold_the_iterations():
    """The graph of a step has as many evaluations of the field as stages, however many the iteration took."""
    w = torch.ones(1, dtype=F64, requires_grad=True)
    recorded = []

    def field(t, y):
        if torch.is_grad_enabled():
            recorded.append(1)
        return -w * torch.sinh(5 * y)

    solution = solve(field, torch.full((1,), 2.0, dtype=F64), (0.0, 1.0), solver="implicit_euler", steps=4)
    assert solution.stats.iterations > 12
    assert len(recorded) <= 4 + 1
    assert math.isfinite(float(solution.ys[-1]))
