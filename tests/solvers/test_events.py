"""Events against closed forms: when and where, what they do, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from odenets import solve
from odenets.solvers import TABLEAUS, Event, InputError, SolveError, Status

F64 = torch.float64
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
ADAPTIVE = [name for name, tableau in TABLEAUS.items() if tableau.adaptive]
X0 = torch.tensor([1.0, 3.0, 10.0], dtype=F64)


def falling(t, s):
    """x'' = -8 for (x, v) [..., 2]."""
    return torch.stack([s[..., 1], torch.full_like(s[..., 1], -8.0)], -1)


def at_rest(x0):
    return torch.stack([x0, torch.zeros_like(x0)], -1)


def height(t, s):
    return s[..., 0]


def bounce(restitution):
    def reflect(t, s):
        return torch.stack([torch.zeros_like(s[..., 0]), -restitution * s[..., 1]], -1)

    return Event(height, direction=-1, on_event=reflect, name="bounce")


def bounce_times(x0, restitution, bounces):
    """sqrt(x0) / 2 (1 + 2 e + ... + 2 e^(n-1)) [n, *x0.shape]: x = x0 - 4 t^2, then flights of v / 4."""
    series = torch.stack([2 * sum(restitution**k for k in range(n)) - 1 for n in range(1, bounces + 1)])
    return series.reshape(-1, *([1] * x0.dim())) * x0.sqrt() / 2


# When, where and the gradients


def test_landing_time_and_its_gradient_in_one_batch():
    x0 = X0.clone().requires_grad_(True)
    solution = solve(falling, at_rest(x0), (0.0, 3.0), per_sample=True, save_at="end", events=[Event(height, terminal=True)])
    landing = solution.events[0].ts[0]
    assert torch.allclose(landing, x0.sqrt() / 2, atol=1e-12)
    (gradient,) = torch.autograd.grad(landing.sum(), x0)
    assert torch.allclose(gradient, 1 / (4 * x0.detach().sqrt()), atol=1e-10)
    assert (solution.status == Status.EVENT).all()
    assert solution.success
    assert torch.equal(solution.ts[:, 0], landing)
    assert torch.allclose(solution.ys[0, :, 1], -8 * landing)


@pytest.mark.parametrize("start", X0.tolist())
@pytest.mark.parametrize("gradient", ["autograd", "adjoint"])
def test_landing_with_one_clock(start, gradient):
    x0 = torch.tensor(start, dtype=F64, requires_grad=True)
    event = Event(height, terminal=True)
    solution = solve(falling, at_rest(x0), (0.0, 1.0, 3.0), events=[event], gradient=gradient, params=())
    (time,) = solution.events[0].ts
    assert float(time.detach()) == pytest.approx(math.sqrt(start) / 2, abs=1e-10)
    assert float(torch.autograd.grad(time, x0)[0]) == pytest.approx(0.25 / math.sqrt(start), abs=1e-5)
    assert solution.status == Status.EVENT
    assert solution.ys[2].isnan().all()
    assert bool(solution.ys[1].isnan().all()) == (start < 4)


def ball(method, per_sample):
    """The solution over [0, 3], x0, the restitution, and the exact times and landing speeds of the bounces."""
    settings = TIGHT
    if method not in ADAPTIVE:
        settings = {"step_size": 0.05, **(TIGHT if "adams" in method else {})}
    elif TABLEAUS[method].order == 2:  # exact here, but its error estimate does not know
        settings = {"rtol": 1e-2, "atol": 1e-2}
    x0 = X0.clone().requires_grad_(True) if per_sample else torch.tensor(1.0, dtype=F64, requires_grad=True)
    restitution = torch.tensor(0.8, dtype=F64, requires_grad=True)
    ts = torch.linspace(0, 3.0, 9, dtype=F64)
    clock = {"per_sample": True} if per_sample else {}
    solution = solve(falling, at_rest(x0), ts, solver=method, events=[bounce(restitution)], **settings, **clock)
    exact = bounce_times(x0, restitution, 8)
    speed = 4 * x0.sqrt() * torch.stack([restitution**k for k in range(8)]).reshape(-1, *([1] * x0.dim()))
    return solution, x0, restitution, exact, speed


CLOCKS = [(method, False) for method in (*ADAPTIVE, "rk4", "implicit_adams")] + [(method, True) for method in ADAPTIVE]


@pytest.mark.parametrize(("method", "per_sample"), CLOCKS)
def test_bounces_are_the_geometric_series_with_gradients(method, per_sample):
    solution, x0, restitution, exact, speed = ball(method, per_sample)
    record = solution.events[0]
    assert torch.equal(record.count, (exact <= 3).sum(0))
    assert torch.equal(record.count, torch.tensor([5, 2, 1]) if per_sample else torch.tensor(5))
    exact, speed = exact[:5], speed[:5]
    known = ~record.ts.isnan()
    assert torch.equal(known, exact <= 3)
    assert torch.allclose(record.ts[known], exact[known], atol=1e-9)
    assert torch.allclose(record.ys[..., 1][known], -speed[known], atol=1e-8)
    weights = torch.randn(known.sum(), dtype=F64, generator=torch.Generator().manual_seed(0))
    for mine, wanted in ((record.ts, exact), (record.ys[..., 1], -speed)):
        mine = torch.autograd.grad((mine[known] * weights).sum(), (x0, restitution), retain_graph=True)
        wanted = torch.autograd.grad((wanted[known] * weights).sum(), (x0, restitution), retain_graph=True)
        for a, b in zip(mine, wanted):
            assert torch.allclose(a, b, rtol=1e-7)


@pytest.mark.parametrize(("method", "per_sample"), [("tsit5", False), ("tsit5", True), ("rk4", False), ("bosh3", True)])
def test_flight_after_the_bounces_and_its_gradients(method, per_sample):
    solution, x0, restitution, exact, speed = ball(method, per_sample)
    landed = (exact <= 3).sum(0, keepdim=True) - 1
    flown = 3.0 - exact.gather(0, landed)[0]
    final = speed.gather(0, landed)[0] * restitution * flown - 4 * flown**2
    assert torch.allclose(solution.ys[-1, ..., 0], final, atol=1e-8)
    mine = torch.autograd.grad(solution.ys[-1, ..., 0].sum(), (x0, restitution))
    wanted = torch.autograd.grad(final.sum(), (x0, restitution))
    for a, b in zip(mine, wanted):
        assert torch.allclose(a, b, rtol=1e-7)
