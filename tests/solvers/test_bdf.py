"""NDFs of variable order: exactness of the formulas, stiff references, work beside scipy's, gradients, failures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from odenets import solve
from odenets.solvers import Adaptive, InputError, Status
from odenets.solvers.field import FlatField
from odenets.solvers.implicit.bdf import MAX_ORDER, BDFIntegrator, polynomial, regridded
from odenets.solvers.state import StateLayout

from .differences import assert_gradients_match_differences
from .fields import COUPLED_START, coupled, coupled_exact
from .stiff import STIFF, relative_error

F64 = torch.float64


def walker(field, t0: float, y0: torch.Tensor, **settings) -> BDFIntegrator:
    flat = FlatField(field, StateLayout.of(y0))
    integrator = Adaptive("bdf", **settings).start(flat, torch.tensor(t0, dtype=F64), y0, 1.0)
    assert isinstance(integrator, BDFIntegrator)
    return integrator


@pytest.mark.parametrize("order", range(1, MAX_ORDER + 1))
def test_a_step_of_order_k_is_exact_for_polynomials_of_degree_k_and_no_more(order):
    """From exact backward differences; stiff, so that the implicit equation is the real one."""
    h = 0.3

    def error(degree: int) -> float:
        exact = np.polynomial.Polynomial(np.arange(1.0, degree + 2))

        def field(t, y):
            value, slope = float(exact(float(t))), float(exact.deriv()(float(t)))
            return -50 * (y - value) + slope

        values = [exact(-h * i) for i in range(order + 1)]
        past = [float(np.diff(values[::-1], n)[-1]) for n in range(order + 1)]
        integrator = walker(field, 0.0, torch.tensor([exact(0.0)], dtype=F64), rtol=1e-12, atol=1e-12, first_step=h)
        integrator.aim(torch.tensor([10 * h], dtype=F64), 10 * h)
        integrator.order, integrator.grid = order, h
        integrator.differences = [torch.tensor([d], dtype=F64) for d in (*past, 0.0, 0.0)]
        change, _, unsolved = integrator._try(h, None)
        assert not unsolved
        return abs(sum(past) + float(change) - exact(h))

    assert error(order) < 1e-10
    assert error(order + 1) > 1e-3


def test_regridding_keeps_the_polynomial():
    coefficients = np.random.default_rng(0).normal(size=5)
    exact = np.polynomial.Polynomial(coefficients)

    def differences(h):
        values = [exact(1.0 - h * i) for i in range(5)]
        return [float(np.diff(values[::-1], n)[-1]) for n in range(5)]

    old = [torch.tensor(d, dtype=F64) for d in differences(0.1)]
    new = regridded(old, 0.37)
    assert np.allclose([float(d) for d in new], differences(0.037), atol=1e-13)


@pytest.mark.parametrize("order", range(1, MAX_ORDER + 1))
def test_dense_output_is_the_polynomial_through_the_last_points(order):
    values = np.random.default_rng(order).normal(size=order + 1)  # at t = 0, -1, -2, ..., newest first
    past = [np.diff(values[::-1], n)[-1] for n in range(1, order + 1)]
    through = np.polyfit(-np.arange(order + 1.0), values, order)
    for theta in (0.0, 0.3, 1.0):
        value = values[1] + np.dot(polynomial(order) @ theta ** np.arange(1, order + 1), past)
        assert value == pytest.approx(np.polyval(through, theta - 1), abs=1e-10)


@pytest.mark.parametrize("name", STIFF)
def test_stiff_references_for_no_more_work_than_scipy(name):
    problem = STIFF[name]
    integrator = walker(problem.field, 0.0, problem.y0, rtol=1e-6, atol=problem.atol)
    with torch.no_grad():
        ys = integrator.outputs(torch.tensor([problem.end], dtype=F64))
    assert relative_error(problem, ys[-1]) < 1e-4
    scipy = solve_ivp(
        lambda t, y: problem.field(t, torch.from_numpy(y)).numpy(), (0.0, problem.end), problem.y0.numpy(), method="BDF",
        rtol=1e-6, atol=problem.atol,
    )  # fmt: skip
    assert integrator.accepted < 1.15 * len(scipy.t)
    assert isinstance(integrator.field, FlatField)
    assert integrator.field.nfe < 1.15 * scipy.nfev
    assert integrator.bound.work.factorisations < 1.3 * scipy.nlu
    assert integrator.bound.work.jacobians < 1.5 * scipy.njev


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_error_follows_the_tolerance_on_a_nonautonomous_field(direction):
    ts = direction * torch.linspace(0, 5, 6, dtype=F64)
    errors = []
    for tol in (1e-4, 1e-7):
        with torch.no_grad():
            ys = solve(coupled, COUPLED_START, ts, solver="bdf", rtol=tol, atol=tol).ys
        errors.append(float((ys - coupled_exact(ts)).norm(dim=-1).max()))
    assert errors[1] < 5e-5
    assert 1e-4 < errors[1] / errors[0] < 1e-2


def test_independent_samples_of_a_batch_have_jacobians_of_their_own():
    y0 = COUPLED_START.repeat(3, 1)
    integrator = walker(coupled, 0.0, y0)
    with torch.no_grad():
        ys = integrator.outputs(torch.tensor([2.0], dtype=F64))
    assert integrator.bound.jacobian.shape == (3, 2, 2)
    assert torch.allclose(ys[-1], coupled_exact(torch.tensor(2.0, dtype=F64)).expand(3, 2), rtol=1e-4)


class Relaxation(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor([100.0, 0.7], dtype=F64))

    def forward(self, t, y):
        slow, fast = y.unbind(-1)
        return torch.stack([-self.rate[1] * slow**2, -self.rate[0] * (fast - torch.cos(t) * slow)], -1)


def test_gradients_are_those_of_an_accurate_explicit_solve():
    field = Relaxation()
    start = torch.tensor([1.0, 0.2], dtype=F64, requires_grad=True)
    ts = torch.tensor([0.0, 0.5, 1.0], dtype=F64)

    def gradients(**settings):
        ys = solve(field, start, ts, **settings).ys
        return torch.autograd.grad((ys[1:] ** 2).sum(), (start, field.rate))

    found = gradients(solver="bdf", rtol=1e-8, atol=1e-10)
    for ours, exact in zip(found, gradients(solver="dopri8", rtol=1e-11, atol=1e-13)):
        assert torch.allclose(ours, exact, rtol=1e-4, atol=1e-8)


def test_gradient_is_that_of_the_steps_taken():
    """Against central differences with loose tolerances: far from the exact gradient, near that of the steps."""
    field = Relaxation()
    start = torch.tensor([1.0, 0.2], dtype=F64)
    solver = Adaptive("bdf", rtol=1e-3, atol=1e-3, first_step=0.02, min_step=0.02, max_step=0.02)

    def loss():
        return (solve(field, start, (0.0, 1.0), solver=solver).ys[-1] ** 2).sum()

    assert_gradients_match_differences(loss, (field.rate,), step=1e-5, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("method", ["bdf", "kvaerno5"])
def test_gradients_of_complex_states_whose_field_is_not_holomorphic(method):
    """Against an accurate explicit solve."""
    found = []
    for solver, tol in ((method, 1e-7), ("dopri8", 1e-11)):
        y0 = torch.tensor([0.5 + 0.2j, 1.0 - 0.5j], dtype=torch.complex128, requires_grad=True)
        rate = torch.tensor(2.4, dtype=F64, requires_grad=True)
        field = lambda t, y, rate=rate: torch.sin(t) - rate * y * y.abs()  # noqa: E731
        ys = solve(field, y0, (0.0, 1.0), solver=solver, rtol=tol, atol=tol * 1e-2).ys
        found.append(torch.autograd.grad(ys[-1].abs().square().sum(), (y0, rate)))
    for mine, exact in zip(*found):
        assert torch.allclose(mine, exact, rtol=1e-4, atol=1e-6)


def test_gradient_with_respect_to_the_end():
    ts = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    ys = solve(coupled, COUPLED_START, ts, solver="bdf", rtol=1e-8, atol=1e-10).ys
    (gradient,) = torch.autograd.grad(ys[-1].sum(), ts)
    end = ts[1].detach()
    assert float(gradient[1]) == pytest.approx(float(coupled(end, coupled_exact(end)).sum()), rel=1e-4)


def test_jumps_in_the_field_restart_the_history():
    def field(t, y):
        return torch.where(t < 1.0, -y, 10.0 - y)

    exact = 10 - (10 - math.exp(-1)) * math.exp(-1)
    y0 = torch.ones(1, dtype=F64)
    ys = solve(field, y0, (0.0, 2.0), solver=Adaptive("bdf", rtol=1e-7, atol=1e-9, jump_t=[1.0])).ys
    assert float(ys[-1]) == pytest.approx(exact, rel=1e-5)


def test_failures_have_their_cause():
    def blows_up(t, y):
        return torch.where(y > 2.0, torch.full_like(y, math.nan), y)

    y0 = torch.ones(1, dtype=F64)
    solution = solve(blows_up, y0, (0.0, 3.0), solver="bdf", throw=False)
    assert solution.status in (Status.NON_FINITE, Status.NONLINEAR)
    assert "NaN" in solution.message
    limited = solve(lambda t, y: -y, y0, (0.0, 3.0), solver="bdf", max_steps=3, throw=False)
    assert limited.status == Status.MAX_STEPS
    with pytest.raises(InputError, match="leave out per_sample"):
        solve(blows_up, y0[None], (0.0, 3.0), solver="bdf", per_sample=True)
