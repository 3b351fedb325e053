"""auto_tsit5_rodas5p takes explicit steps where the problem is not stiff and implicit ones where it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from odenets import solve
from odenets.solvers import TABLEAUS, Adaptive
from odenets.solvers.field import FlatField
from odenets.solvers.implicit.switching import SwitchingIntegrator
from odenets.solvers.methods.auto_tsit5_rodas5p import AUTO_TSIT5_RODAS5P
from odenets.solvers.state import StateLayout

from .stiff import STIFF, relative_error

F64 = torch.float64
NAME = "auto_tsit5_rodas5p"


def walk(field, y0, end, **settings):
    """The integrator after the solve, the final state, and for every step its start and method."""
    flat = FlatField(field, StateLayout.of(y0))
    integrator = Adaptive(NAME, **settings).start(flat, torch.tensor(0.0, dtype=F64), y0, 1.0)
    assert isinstance(integrator, SwitchingIntegrator)
    integrator.aim(torch.tensor([end], dtype=F64), end)
    steps = []
    with torch.no_grad():
        while integrator.now < end:
            method = integrator.method.name
            step = integrator.step()
            assert step is not None, integrator.message
            steps.append((step.start, method))
    return integrator, steps


def van_der_pol(mu):
    def field(t, y):
        x, v = y.unbind(-1)
        return torch.stack([v, mu * (1 - x**2) * v - x], -1)

    return field


def test_the_interval_is_that_of_the_explicit_methods_stability():
    z = AUTO_TSIT5_RODAS5P.interval
    function = TABLEAUS["tsit5"].stability_function
    assert np.abs(function(-np.linspace(1e-3, z, 2000))).max() <= 1
    assert abs(function(-z - 1e-3)) > 1


def test_a_nonstiff_problem_is_walked_explicitly():
    integrator, _ = walk(van_der_pol(1.0), torch.tensor([2.0, 0.0], dtype=F64), 20.0)
    assert integrator.steps_of["rodas5p"] == 0
    plain = solve(van_der_pol(1.0), torch.tensor([2.0, 0.0], dtype=F64), (0.0, 20.0), solver="tsit5")
    assert integrator.accepted == plain.stats.accepted
    assert torch.equal(integrator.y, plain.ys[-1])


def test_a_stiff_problem_is_left_to_the_stiff_method_soon():
    problem = STIFF["robertson"]
    integrator, steps = walk(problem.field, problem.y0, problem.end, rtol=1e-6, atol=problem.atol)
    assert relative_error(problem, integrator.y) < 1e-4
    assert integrator.steps_of["tsit5"] < 0.25 * integrator.accepted
    assert steps[-1][1] == "rodas5p"


def test_it_goes_with_a_stiffness_that_comes_and_goes():
    def field(t, y):
        rate = torch.where((t > 5) & (t < 10), 1e4, 1.0)
        return -rate * (y - torch.cos(t))

    integrator, steps = walk(field, torch.zeros(1, dtype=F64), 15.0, rtol=1e-6, atol=1e-8)

    def share(start, end):
        inside = [method for t, method in steps if start <= t < end]
        return sum(method == "rodas5p" for method in inside) / len(inside)

    assert share(0, 5) == 0
    assert share(5.5, 9.9) > 0.9
    assert share(12, 15) == 0
    changes = sum(a[1] != b[1] for a, b in zip(steps, steps[1:]))
    assert changes == 2
    exact = solve(
        field, torch.zeros(1, dtype=F64), (0.0, 15.0), solver=Adaptive("rodas5p", 1e-9, 1e-11, jump_t=[5.0, 10.0])
    )
    assert float(integrator.y) == pytest.approx(float(exact.ys[-1]), rel=1e-4)


def test_a_relaxation_oscillator_needs_both():
    y0 = torch.tensor([2.0, 0.0], dtype=F64)
    integrator, _ = walk(van_der_pol(50.0), y0, 100.0)
    assert min(integrator.steps_of.values()) > 20
    with torch.no_grad():
        exact = solve(van_der_pol(50.0), y0, (0.0, 100.0), solver="dopri8", rtol=1e-9, atol=1e-11)
    assert torch.allclose(integrator.y, exact.ys[-1], rtol=1e-3)
    assert integrator.accepted < 700  # tsit5 alone takes 3116


def test_gradients_flow_through_the_switch():
    rate = torch.tensor(300.0, dtype=F64, requires_grad=True)

    def final(solver, **settings):
        field = lambda t, y: -rate * (y - torch.cos(t))  # noqa: E731
        return solve(field, torch.zeros(1, dtype=F64), (0.0, 1.5), solver=solver, **settings).ys[-1].sum()

    (found,) = torch.autograd.grad(final(NAME, rtol=1e-8, atol=1e-10), rate)
    # y = (rate^2 cos t + rate sin t) / (1 + rate^2) up to exp(-rate t)
    r, c, s = 300.0, math.cos(1.5), math.sin(1.5)
    exact = ((2 * r * c + s) * (1 + r**2) - 2 * r * (r**2 * c + r * s)) / (1 + r**2) ** 2
    assert float(found) == pytest.approx(exact, rel=1e-3)
