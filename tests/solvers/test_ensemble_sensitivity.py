"""Gradients of ensembles: closed forms, and autograd through the same steps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from odenets.solvers import Event, InputError, solve

F64 = torch.float64
pytestmark = pytest.mark.usefixtures("compiled")


def growth(t, y, rate):
    """y' = rate y cos t: y0 exp(rate sin t)."""
    return rate[:, None] * y * torch.cos(t)[:, None]


def test_closed_form():
    y0 = torch.linspace(0.5, 2, 10, dtype=F64)[:, None].requires_grad_(True)
    rate = torch.linspace(-1, 1, 10, dtype=F64).requires_grad_(True)
    for ts in (torch.linspace(0, 2, 5, dtype=F64), torch.linspace(0, -2, 5, dtype=F64)):
        ys = solve(growth, y0, ts, args=(rate,), solver="tsit5", rtol=1e-10, atol=1e-10, ensemble=True).ys
        weights = torch.linspace(1, 2, 50, dtype=F64).reshape(5, 10)
        to_start, to_rate = torch.autograd.grad((ys[..., 0] * weights).sum(), (y0, rate))
        sin = torch.sin(ts)[:, None]
        exact = torch.exp(rate * sin).detach()
        assert torch.allclose(to_start[:, 0], (weights * exact).sum(0), rtol=1e-7)
        assert torch.allclose(to_rate, (weights * exact * sin * y0[:, 0]).sum(0), rtol=1e-7, atol=1e-9)


def forced(t, y, stiffness, constants):
    x, v, z = y.unbind(-1)
    return torch.stack(
        [constants["a"][0] * (v - x) + torch.sin(t), x * (stiffness - z) - v, x * v - constants["a"][1] * z], -1
    )


@pytest.mark.parametrize(("method", "outputs"), [("dopri5", 2), ("bosh3", 5), ("rodas5p", 5)])
def test_same_gradient_as_autograd_through_the_same_steps(method, outputs):
    """Second derivatives of the field enter rodas5p's. With two outputs the end alone is wanted.

    Steps of one size: chosen ones agree to rounding only, and the discretisation's error moves with them.
    """
    size = {"first_step": 0.05, "min_step": 0.05, "max_step": 0.05}
    found = []
    for how in ("ensemble", "per_sample"):
        y0 = torch.ones(6, 3, dtype=F64, requires_grad=True)
        stiffness = torch.linspace(0, 28, 6, dtype=F64).requires_grad_(True)
        shared = torch.tensor([10.0, 8 / 3], dtype=F64, requires_grad=True)
        ts = torch.linspace(0, 1, outputs, dtype=F64)
        args = (stiffness, {"a": shared})
        ys = solve(forced, y0, ts, solver=method, args=args, **size, **{how: True}).ys
        found.append(torch.autograd.grad(ys.square().sum(), (y0, stiffness, shared)))
    for ours, theirs in zip(*found):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 1e-12 * theirs.abs().max()


def test_weights_of_a_small_network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    y0 = torch.randn(12, 2, dtype=F64)
    gradients = []
    for how in ("ensemble", "per_sample"):
        ys = solve(lambda t, y: network(y), y0, (0.0, 1.0), gradient="autograd", **{how: True}).ys
        gradients.append(torch.autograd.grad(ys[-1].square().sum(), list(network.parameters())))
    for ours, theirs in zip(*gradients):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)


def test_a_trajectory_that_failed_does_not_spoil_the_others():
    y0 = torch.tensor([[1.0], [-1.0]], dtype=F64, requires_grad=True)
    a = torch.ones((), dtype=F64, requires_grad=True)
    ts = torch.linspace(0, 2, 5, dtype=F64)
    solution = solve(lambda t, y, a: a * y**2, y0, ts, args=(a,), ensemble=True, throw=False, gradient="forward")
    assert solution.ys[3:, 0].isnan().all()
    to_start, to_a = torch.autograd.grad(solution.ys[-1, 1].sum(), (y0, a))
    # y = y0 / (1 - a y0 t)
    assert torch.allclose(to_start, torch.tensor([[0.0], [1 / 9]], dtype=F64), atol=1e-6)
    assert math.isclose(float(to_a), 2 / 9, rel_tol=1e-4)


def test_refused():
    y0 = torch.ones(3, 1, dtype=F64, requires_grad=True)
    with pytest.raises(InputError, match="no gradients of solves with events"):
        solve(lambda t, y: -y, y0, (0.0, 1.0), events=[Event(lambda t, y: y[:, 0] - 0.5)], ensemble=True)
    with pytest.raises(InputError, match="not the times"):
        ts = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
        solve(lambda t, y: -y, y0, ts, ensemble=True)
    with pytest.raises(InputError, match="at most 32 numbers per trajectory, got 40"):
        solve(lambda t, y: -y, torch.ones(3, 40, dtype=F64, requires_grad=True), (0.0, 1.0), ensemble=True)
