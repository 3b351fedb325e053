"""Forward sensitivity beyond what every exact method must do: closed forms, stiff parameters, its own limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from benchmarks.memory import PeakMemory
from odenets import solve
from odenets.solvers import InputError
from odenets.solvers.gradients import Forward

from .stiff import robertson
from .test_gradient_methods import Field, start, weighted

F64 = torch.float64


def test_a_linear_steps_derivative_is_that_of_its_stability_function():
    """d/da of R(ha)^n y0 with R(z) = 1/(1 - z), and of y0 and T."""
    a, y0 = torch.tensor(-40.0, dtype=F64, requires_grad=True), torch.ones(1, dtype=F64, requires_grad=True)
    ts = torch.tensor([0.0, 0.5], dtype=F64, requires_grad=True)
    y = solve(lambda t, y: a * y, y0, ts, solver="implicit_euler", steps=5, gradient="forward", params=(a,)).ys[-1]
    y.sum().backward()
    h, r = 0.1, 1 / (1 + 4.0)
    assert float(y0.grad) == pytest.approx(r**5, rel=1e-12)
    assert float(a.grad) == pytest.approx(5 * h * r**6, rel=1e-12)
    assert float(ts.grad[1]) == pytest.approx(-40 * r**6, rel=1e-12)
    assert float(ts.grad[0]) == pytest.approx(40 * r**6, rel=1e-12)


def test_rates_of_a_stiff_reaction():
    """Robertson's problem: the derivative by one rate, against autograd through another method."""
    found = []
    for gradient, solver in (("forward", "kvaerno5"), ("autograd", "radauIIA5")):
        rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
        y0 = torch.tensor([1.0, 0, 0], dtype=F64)
        y = solve(
            robertson, y0, (0.0, 1.0), args=(rate,), params=(rate,), solver=solver, rtol=1e-5, atol=1e-10,
            gradient=gradient,
        ).ys[-1]  # fmt: skip
        found.append(float(torch.autograd.grad(y[2], rate)[0]))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_memory_does_not_grow_with_the_steps():
    class Decay(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.tensor([0.3, 0.1], dtype=F64))

        def forward(self, t, y):
            return -self.rate[0] * torch.sin(t) * y + self.rate[1]

    def peak(steps: int) -> float:
        with PeakMemory() as memory:
            y = solve(Decay(), torch.ones(20_000, dtype=F64), (0.0, 1.0), solver="rk4", steps=steps, gradient="forward")
            y.ys[-1].sum().backward()
        return memory.peak

    assert peak(100) < 1.05 * peak(10)


def test_a_field_that_cannot_be_batched_is_taken_direction_by_direction():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            assert not torch._C._functorch.is_batchedtensor(g)
            return 2 * x * _Times.apply(g)

    class _Times(torch.autograd.Function):
        @staticmethod
        def forward(ctx, g):
            return g.clone()

        @staticmethod
        def backward(ctx, g):
            if g.dim() and not math.isfinite(g.reshape(-1)[0].item()):  # no batching rule reads a number
                raise ValueError
            return g.clone()

    found = []
    for gradient in ("autograd", "forward"):
        y0 = start()
        ys = solve(lambda t, y: torch.cos(t) - Square.apply(y), y0, (0.0, 1.0), solver="rk4", steps=3,
                   gradient=gradient, params=()).ys  # fmt: skip
        found.append(torch.autograd.grad(weighted(ys), y0)[0])
    assert torch.allclose(*found, rtol=1e-12)


def test_many_parameters_are_refused_with_what_to_use_instead():
    with pytest.raises(InputError, match="each of 17 numbers: use gradient='adjoint'"):
        solve(Field(), start(), (0.0, 1.0), gradient=Forward(most=16))
