"""Phantom gradients: what they leave out, and that this goes away with the number of steps."""

from __future__ import annotations

import pytest
import torch

from odenets import solve
from odenets.solvers import FixedStep, InputError, Newton, Phantom, steady_state

F64 = torch.float64


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_of_a_linear_implicit_step_it_is_the_partial_sum_of_its_stability_function(steps):
    """y1 = y0/(1 - z): the sum of z^i over i <= k."""
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    solver = FixedStep("implicit_euler", steps=1, nonlinear=Newton(phantom=Phantom(steps)))
    y1 = solve(lambda t, y: -0.5 * y, y0, (0.0, 1.0), solver=solver).ys[-1]
    y1.sum().backward()
    assert float(y1) == pytest.approx(1 / 1.5, rel=1e-12)  # the step itself is exact
    assert float(y0.grad) == pytest.approx(sum((-0.5) ** i for i in range(steps + 1)), rel=1e-12)


def gradients(phantom, gradient="autograd", method="trbdf2"):
    y0 = torch.tensor([[0.3, -0.8], [0.5, 0.1]], dtype=F64, requires_grad=True)
    w = torch.tensor([[-1.0, 0.7], [0.2, -0.5]], dtype=F64, requires_grad=True)
    solver = FixedStep(method, steps=3, nonlinear=Newton(phantom=phantom))
    field = lambda t, y: torch.tanh(y @ w.T) + torch.cos(2 * t) * y  # noqa: E731
    ys = solve(field, y0, (0.1, 0.9), solver=solver, gradient=gradient, params=(w,)).ys
    return torch.cat([g.flatten() for g in torch.autograd.grad(ys[-1].square().sum(), (y0, w))])


@pytest.mark.parametrize("method", ["trbdf2", "radauIIA5"])
def test_the_bias_of_implicit_steps_goes_away_with_more_terms(method):
    exact = gradients(None, method=method)
    errors = [float((gradients(Phantom(k), method=method) - exact).norm() / exact.norm()) for k in (1, 2, 4, 8, 16)]
    assert errors[0] > 3e-3
    assert all(later < 0.5 * error for error, later in zip(errors, errors[1:]))
    assert float((gradients(Phantom(60), method=method) - exact).norm()) < 1e-11


def test_every_method_that_runs_steps_again_takes_it():
    for gradient in ("checkpoint", "discrete_adjoint", "forward"):
        torch.testing.assert_close(gradients(Phantom(2), gradient), gradients(Phantom(2)), rtol=1e-12, atol=1e-13)


def settled(p, phantom, per_sample=False):
    y0 = torch.tensor([[0.4, -0.2], [0.1, 0.6]], dtype=F64)
    field = lambda t, y: torch.tanh(y @ p) + 0.3 - 2 * y  # noqa: E731
    return steady_state(field, y0, phantom=phantom, tolerance=1e-12, per_sample=per_sample).y


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(("steps", "damping"), [(1, 0.5), (3, 0.5), (4, 0.3)])
def test_of_an_equilibrium_it_is_the_unrolled_iteration(steps, damping, per_sample):
    p = torch.tensor([[0.3, 0.8], [-0.5, 0.2]], dtype=F64, requires_grad=True)
    y = settled(p, Phantom(steps, damping), per_sample)
    found = torch.autograd.grad((y.square() * torch.arange(1.0, 5.0).reshape(2, 2)).sum(), p)[0]
    z = y.detach()
    for _ in range(steps):
        z = z + damping * (torch.tanh(z @ p) + 0.3 - 2 * z)
    torch.testing.assert_close(z.detach(), y.detach(), atol=1e-10, rtol=0)
    expected = torch.autograd.grad((z.square() * torch.arange(1.0, 5.0).reshape(2, 2)).sum(), p)[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_the_bias_of_an_equilibrium_goes_away_with_more_steps():
    p = torch.tensor([[0.3, 0.8], [-0.5, 0.2]], dtype=F64, requires_grad=True)
    exact = torch.autograd.grad(settled(p, None).square().sum(), p)[0]
    errors = [
        float((torch.autograd.grad(settled(p, Phantom(k, 0.5)).square().sum(), p)[0] - exact).norm() / exact.norm())
        for k in (1, 4, 16, 64)
    ]
    assert errors[0] > 0.1
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10


def test_what_it_cannot_do_is_refused():
    with pytest.raises(InputError, match="steps >= 1"):
        Phantom(0)
    with pytest.raises(InputError, match="damping in"):
        Phantom(2, 1.5)
    with pytest.raises(InputError, match="second derivatives"):
        Newton(phantom=Phantom(), twice_differentiable=True)
