"""Measured order, exact nodes, reference solutions: the conformance suite of the explicit methods."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from odenets import solve
from odenets.solvers import TABLEAUS, Adams, Adaptive, FixedStep, Solver

from .detest import PROBLEMS
from .fields import COUPLED_START, coupled, coupled_exact

# length of the interval and steps over it: enough for the asymptotic regime, few enough to stay above rounding
GRIDS = {1: (4.0, 800), 2: (4.0, 200), 3: (4.0, 150), 4: (4.0, 100), 5: (4.0, 100), 8: (20.0, 54)}
METHODS: dict[str, tuple[Solver, int]] = {name: (FixedStep(name), tableau.order) for name, tableau in TABLEAUS.items()}
METHODS["explicit_adams, order 4"] = (Adams("explicit_adams", max_order=4), 4)
METHODS["explicit_adams, default"] = (Adams("explicit_adams"), 5)
METHODS["implicit_adams, order 4"] = (Adams("implicit_adams", max_order=4, rtol=1e-13, atol=1e-14, max_iters=30), 4)


def measured_order(solver, ts_end: float, steps: int) -> float:
    """Slope of log error over log N between `steps` and twice as many."""
    numbers = [round(steps * factor) for factor in (1, 1.25, 1.5, 1.75, 2)]
    errors = []
    for n in numbers:
        # an uneven grid: a wrong variable-step formula would show
        grid = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        grid = ts_end * (grid + 0.02 * torch.sin(2 * math.pi * grid))
        solution = solve(coupled, COUPLED_START, grid, solver=solver)
        errors.append(float((solution.ys - coupled_exact(grid)).square().mean().sqrt()))
    assert errors[-1] > 1e-13, "below rounding: take fewer steps"
    return -np.polyfit(np.log(numbers), np.log(errors), 1)[0]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_measured_order_on_a_nonautonomous_field(name, direction):
    solver, order = METHODS[name]
    length, steps = GRIDS[order]
    assert measured_order(solver, direction * length, steps) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("name", TABLEAUS)
@pytest.mark.parametrize("h", [0.25, -0.25])
def test_field_is_called_at_the_nodes(name, h):
    times = []

    def field(t, y):
        times.append(float(t))
        return -y

    solve(field, torch.ones(1, dtype=torch.float64), (1.0, 1.0 + h), solver=FixedStep(name, steps=1))
    assert times == pytest.approx([1.0 + c * h for c in TABLEAUS[name].c], abs=1e-15)


# Global errors grow along orbits (D) and where neighbouring solutions part; the factors are of the error at the end
# over atol + rtol |y|, with room of about three over what these methods reach.
ALLOWED = {"bosh3": 2000, "tsit5": 900, "dopri5": 2500, "dopri8": 150}
CASES = [(m, tol) for m in ("tsit5", "dopri5", "dopri8") for tol in (1e-6, 1e-9)] + [("bosh3", 1e-6)]
SLOW = [("bosh3", 1e-9), ("fehlberg2", 1e-6), ("fehlberg2", 1e-9), ("adaptive_heun", 1e-6)]
SLOW_ALLOWED = {"bosh3": 2000, "fehlberg2": 40_000, "adaptive_heun": 600}


def worst_detest_error(method: str, tol: float) -> tuple[float, str]:
    worst = (0.0, "")
    for problem in PROBLEMS.values():
        with torch.no_grad():
            ys = solve(problem.field, problem.y0, (0.0, 20.0), solver=method, rtol=tol, atol=tol).ys
        error = ((ys[-1] - problem.exact).abs() / (tol + tol * problem.exact.abs())).max()
        worst = max(worst, (float(error), problem.name))
    return worst


@pytest.mark.parametrize(("method", "tol"), CASES)
def test_detest_against_reference_solutions(method, tol):
    error, name = worst_detest_error(method, tol)
    assert error < ALLOWED[method], name


@pytest.mark.slow
@pytest.mark.parametrize(("method", "tol"), SLOW)
def test_detest_with_the_low_order_methods(method, tol):
    error, name = worst_detest_error(method, tol)
    assert error < SLOW_ALLOWED[method], name


@pytest.mark.parametrize("method", ["rk4", "rk4_38", "heun3", "implicit_adams", "explicit_adams"])
@pytest.mark.parametrize("name", ["A2", "A3", "A5", "B1", "B4", "C3", "D2", "E1", "E3"])
def test_fixed_step_methods_against_reference_solutions(method, name):
    problem = PROBLEMS[name]
    with torch.no_grad():
        ys = solve(problem.field, problem.y0, (0.0, 20.0), solver=method, steps=2000).ys
    limit = 5e-3 if method == "heun3" else 2e-4
    assert torch.allclose(ys[-1], problem.exact, rtol=limit, atol=limit * 0.1)


@pytest.mark.parametrize("method", [n for n, t in TABLEAUS.items() if t.adaptive and t.order > 2])
def test_error_follows_the_tolerance(method):
    """Tolerance proportionality: a thousandth of the tolerance gives about a thousandth of the error."""
    ts = torch.tensor([0.0, 5.0], dtype=torch.float64)
    errors = []
    for tol in (1e-5, 1e-8):
        ys = solve(coupled, COUPLED_START, ts, solver=Adaptive(method, rtol=tol, atol=tol)).ys
        errors.append(float((ys[-1] - coupled_exact(ts[-1])).norm()))
    assert 1e-4 < errors[1] / errors[0] < 1e-2


@pytest.mark.parametrize(("method", "order"), [("bosh3", 3), ("tsit5", 4), ("dopri5", 4), ("dopri8", 5), ("rk4", 3)])
def test_dense_output_order_within_steps(method, order):
    """With exact starts a single step's interpolation error is of the order after the uniform one."""
    errors = []
    for h in (0.4, 0.2):
        solution = solve(
            coupled, COUPLED_START, (0.0, h), solver=FixedStep(method, steps=1), dense=True
        )  # fmt: skip
        t = torch.linspace(0, h, 23, dtype=torch.float64)
        errors.append(float((solution.dense(t) - coupled_exact(t)).norm(dim=-1).max()))
    assert math.log2(errors[0] / errors[1]) > order + 1 - 0.35


def test_wrong_node_would_be_seen():
    """The order test bites: with one node shifted rk4 drops to first order."""
    import dataclasses

    from odenets.solvers import methods

    tableau = methods.TABLEAUS["rk4"]
    broken = dataclasses.replace(tableau, name="broken", c=(0.0, 0.5, 0.5, 0.5))
    methods.ONE_STEP["broken"] = broken
    try:
        assert measured_order(FixedStep("broken"), 4.0, 100) < 1.3
    finally:
        del methods.ONE_STEP["broken"]
