"""Implicit Runge-Kutta methods: order, stability, stiff references, failures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from odenets import solve
from odenets.solvers import (
    IMPLICIT_TABLEAUS,
    Adaptive,
    FixedPoint,
    FixedStep,
    InputError,
    Newton,
    NewtonKrylov,
    SolveError,
    Status,
)  # fmt: skip
from odenets.solvers.methods import IMPLICIT_METHODS, one_step_method
from odenets.solvers.solver import ADAPTIVE_METHODS

from .fields import COUPLED_START, coupled, coupled_exact
from .stiff import STIFF, robertson
from .test_tableaus import defect

F64 = torch.float64
METHODS = [*IMPLICIT_TABLEAUS, "theta(0.7)"]
L_STABLE = ("implicit_euler", "radauIIA3", "radauIIA5", "sdirk2", "trbdf2", "kvaerno3", "kvaerno4", "kvaerno5")
STIFFEST = -1e6


def tableau(name):
    return one_step_method(name).tableau


# Coefficients


@pytest.mark.parametrize("name", METHODS)
def test_order_conditions_hold_up_to_the_order_and_not_beyond(name):
    t = tableau(name)
    assert np.allclose(t.matrix.sum(1), t.c, atol=4e-15)
    for order in range(1, t.order + 1):
        assert defect(np.array(t.b), t.matrix, order) < 1e-14
    assert defect(np.array(t.b), t.matrix, t.order + 1) > 1e-4


@pytest.mark.parametrize("name", [n for n in IMPLICIT_TABLEAUS if IMPLICIT_METHODS[n].adaptive])
def test_embedded_method_has_the_order_that_the_controller_is_told(name):
    method = IMPLICIT_METHODS[name]
    t = method.extended
    embedded = np.array(t.b) - np.array(t.b_error)
    for order in range(1, method.control_order):
        assert defect(embedded, t.matrix, order) < 1e-14
    assert defect(embedded, t.matrix, method.control_order) > 1e-4


@pytest.mark.parametrize("name", METHODS)
def test_l_stable_methods_damp_and_the_others_do_not_grow(name):
    growth = abs(tableau(name).stability_function(STIFFEST))
    assert growth < 1e-5 if name in L_STABLE else 0.1 < growth < 1
    axis = 1j * np.logspace(-2, 4, 60)
    assert abs(tableau(name).stability_function(axis)).max() < 1 + 1e-12  # A-stable


@pytest.mark.parametrize(("name", "order"), [("gl4", 3), ("gl6", 3), ("radauIIA5", 3), ("kvaerno5", 4)])
def test_dense_output_satisfies_the_continuous_order_conditions(name, order):
    t = IMPLICIT_METHODS[name].extended
    a = t.matrix
    if len(t.dense) > t.stages:
        a = np.pad(a, ((0, 1), (0, 1)))
        a[-1, :-1] = t.b
    for theta in (0.3, 0.8):
        weights = t.dense @ theta ** np.arange(1, t.dense.shape[1] + 1)
        for p in range(1, order + 1):
            assert defect(weights, a, p, theta) < 1e-13


# Steps


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("z", [-2.5 + 1.5j, STIFFEST])
def test_a_step_is_the_stability_function(name, z):
    """On a complex state, hence through the real form of a complex field."""
    y0 = torch.tensor([1.0 + 0.5j, -0.3j], dtype=torch.complex128)
    y1 = solve(lambda t, y: z / 0.5 * y, y0, (0.0, 0.5), solver=FixedStep(name, steps=1)).ys[-1]
    expected = complex(tableau(name).stability_function(z)) * y0
    assert torch.allclose(y1, expected, rtol=1e-9, atol=1e-10)


STEPS = {1: 40, 2: 20, 3: 12, 4: 8, 5: 6, 6: 4}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("end", [2.0, -2.0])
def test_measured_order_on_a_nonautonomous_field(name, end):
    order = tableau(name).order
    errors = []
    for n in (2 * STEPS[order], 4 * STEPS[order]):
        grid = torch.linspace(0, 1, n + 1, dtype=F64)
        grid = end * (grid + 0.02 * torch.sin(2 * math.pi * grid))
        with torch.no_grad():
            ys = solve(coupled, COUPLED_START, grid, solver=FixedStep(name)).ys
        errors.append(float((ys - coupled_exact(grid)).square().mean().sqrt()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


def prothero_robinson(rate):
    """y' = rate (y - cos t) - sin t, y = cos t (Prothero and Robinson 1974)."""
    return lambda t, y: rate * (y - torch.cos(t)) - torch.sin(t)


@pytest.mark.parametrize(("name", "stiff_order"), [("gl4", 2), ("kvaerno5", 2), ("trapezoid", 2)])
def test_order_reduction_on_prothero_robinson(name, stiff_order):
    """The stage order is what is left of the order where the problem is stiff."""

    def order(rate, steps):
        errors = []
        for n in (steps, 2 * steps):
            with torch.no_grad():
                y = solve(
                    prothero_robinson(rate), torch.ones(1, dtype=F64), (0.0, 2.0), solver=FixedStep(name, steps=n)
                ).ys
            errors.append(abs(float(y[-1, 0]) - math.cos(2.0)))
        return math.log2(errors[0] / errors[1])

    classical = tableau(name).order
    assert order(-1.0, 8) > classical - 0.4
    assert order(-1e5, 20) < max(stiff_order, 2) + 0.5


# Adaptive


REFERENCES = [("radauIIA5", n) for n in STIFF] + [("kvaerno5", "hires")]
HEAVY = [
    ("kvaerno5", "robertson"),
    ("kvaerno5", "van_der_pol"),
    ("kvaerno4", "hires"),
    ("kvaerno3", "hires"),
    ("kvaerno4", "robertson"),
]


def relative_error(method, name):
    problem = STIFF[name]
    with torch.no_grad():
        solution = solve(problem.field, problem.y0, (0.0, problem.end), solver=method, rtol=1e-6, atol=problem.atol)
    return float((solution.ys[-1] / problem.exact - 1).abs().max()), solution.stats


@pytest.mark.parametrize(("method", "name"), REFERENCES)
def test_stiff_references(method, name):
    error, stats = relative_error(method, name)
    assert error < 1e-5
    assert stats.jacobians < stats.accepted + stats.rejected
    assert stats.nfe < 12_000  # explicit methods would take millions


@pytest.mark.slow  # thousands of steps each
@pytest.mark.parametrize(("method", "name"), HEAVY)
def test_stiff_references_with_the_other_methods(method, name):
    assert relative_error(method, name)[0] < 1e-4


@pytest.mark.parametrize("method", [m for m in IMPLICIT_TABLEAUS if m in ADAPTIVE_METHODS])
def test_error_follows_the_tolerance(method):
    errors = []
    for tol in (1e-4, 1e-7):
        with torch.no_grad():
            ys = solve(coupled, COUPLED_START, (0.0, 4.0), solver=method, rtol=tol, atol=tol).ys
        errors.append(float((ys[-1] - coupled_exact(torch.tensor(4.0, dtype=F64))).norm()))
    assert 1e-5 < errors[1] / errors[0] < 3e-2


@pytest.mark.parametrize("method", ["radauIIA5", "kvaerno5"])
def test_every_sample_has_its_own_steps_and_matrix(method):
    """Rates over two decades, each sample as if solved alone."""
    rate = torch.tensor([0.1, 1.0, 10.0], dtype=F64)
    y0 = torch.tensor([1.0, 0, 0], dtype=F64).expand(3, 3)
    settings = {"solver": method, "rtol": 1e-6, "atol": 1e-10}
    with torch.no_grad():
        batch = solve(robertson, y0, (0.0, 40.0), args=(rate,), per_sample=True, **settings)
        alone = [solve(robertson, y0[0], (0.0, 40.0), args=(rate[i],), **settings) for i in range(3)]
    exact = torch.stack([s.ys[-1] for s in alone])
    assert torch.allclose(batch.ys[-1], exact, rtol=1e-5)
    steps = torch.tensor([s.stats.accepted for s in alone])
    assert (batch.stats.accepted - steps).abs().max() <= 0.1 * steps.max()
    assert batch.stats.accepted.unique().numel() > 1


def test_robertson_against_scipy():
    from scipy.integrate import solve_ivp

    ts = torch.tensor([0.0, 1e-3, 1.0, 40.0, 1e4], dtype=F64)
    field = lambda t, y: robertson(t, torch.from_numpy(y)).numpy()  # noqa: E731
    reference = solve_ivp(field, (0, 1e4), [1.0, 0, 0], "Radau", ts.numpy(), rtol=1e-10, atol=1e-14).y.T
    with torch.no_grad():
        ys = solve(robertson, torch.tensor([1.0, 0, 0], dtype=F64), ts, solver="radauIIA5", rtol=1e-7, atol=1e-11).ys
    assert torch.allclose(ys[1:], torch.from_numpy(reference)[1:], rtol=1e-4)


# What it costs


@pytest.mark.parametrize("name", ["implicit_euler", "trbdf2", "gl6"])
def test_a_linear_field_needs_one_jacobian_and_one_factorisation(name):
    a = torch.tensor([[-3.0, 1.0], [0.5, -200.0]], dtype=F64)
    with torch.no_grad():
        stats = solve(lambda t, y: y @ a.T, torch.ones(2, dtype=F64), (0.0, 1.0), solver=name, steps=20).stats
    assert (stats.jacobians, stats.factorisations) == (1, 1)
    assert stats.iterations <= 20 * 2 * len(IMPLICIT_METHODS[name].blocks)


def test_a_large_batch_has_small_matrices():
    """196608 states in 65536 systems: a matrix over all of them would take 288 GiB."""
    y0 = torch.linspace(-1, 1, 65536 * 3, dtype=torch.float32).reshape(-1, 3)
    with torch.no_grad():
        y1 = solve(lambda t, y: -(y**3), y0, (0.0, 0.5), solver="implicit_midpoint", steps=1).ys[-1]
    # the iteration stops at 10 units of rounding in the state, and the equation's slope there is at most 1.75
    assert (y1 - y0 + 0.5 * ((y0 + y1) / 2) ** 3).abs().max() < 1.75 * 12 * torch.finfo(torch.float32).eps


def test_samples_that_influence_each_other_are_one_system():
    """A diffusion along the first dimension: seen as separate systems Newton would not converge."""
    field = lambda t, y: 50 * (torch.roll(y, 1, 0) - 2 * y + torch.roll(y, -1, 0)) - y**3  # noqa: E731
    y0 = torch.linspace(0, 1, 24, dtype=F64).reshape(12, 2)
    with torch.no_grad():
        mine = solve(field, y0, (0.0, 0.5), solver="radauIIA5", rtol=1e-8, atol=1e-8).ys[-1]
        exact = solve(field, y0, (0.0, 0.5), solver="dopri5", rtol=1e-10, atol=1e-10).ys[-1]
    assert torch.allclose(mine, exact, atol=1e-6)


# Other nonlinear solvers


@pytest.mark.parametrize(
    "nonlinear", [NewtonKrylov(), FixedPoint(), FixedPoint(memory=0, damping=0.9), Newton(dense_limit=1)]
)
@pytest.mark.parametrize("name", ["trapezoid", "radauIIA5"])
def test_all_nonlinear_solvers_find_the_same_stages(nonlinear, name):
    y0 = torch.stack([COUPLED_START, 0.8 * COUPLED_START])
    with torch.no_grad():
        mine = solve(coupled, y0, (0.0, 1.0), solver=FixedStep(name, steps=5, nonlinear=nonlinear)).ys[-1]
        newton = solve(coupled, y0, (0.0, 1.0), solver=FixedStep(name, steps=5)).ys[-1]
    assert torch.allclose(mine, newton, rtol=1e-10, atol=1e-11)


def test_krylov_solves_a_stiff_field_without_a_matrix():
    """Heat conduction on 60 points, stiffness 1500."""
    n = 60
    x = torch.linspace(0, math.pi, n + 2, dtype=F64)[1:-1]
    h = float(x[1] - x[0])

    def heat(t, u):
        padded = torch.nn.functional.pad(u, (1, 1))
        return (padded[2:] - 2 * u + padded[:-2]) / h**2

    with torch.no_grad():
        solution = solve(heat, torch.sin(x), (0.0, 1.0), solver=Adaptive("kvaerno5", nonlinear=NewtonKrylov()))
    decay = 4 / h**2 * math.sin(h / 2) ** 2
    assert torch.allclose(solution.ys[-1], math.exp(-decay) * torch.sin(x), atol=1e-5)
    assert solution.stats.jacobians == 0 and solution.stats.products > 0


def test_damped_newton_finds_a_root_far_away():
    """One step of implicit Euler onto y + 50 atan(y) = 20: undamped Newton runs away."""
    y = solve(
        lambda t, y: -50 * torch.atan(y),
        torch.full((1,), 20.0, dtype=F64),
        (0.0, 1.0),
        solver="implicit_euler",
        steps=1,
    )
    assert abs(float(y.ys[-1] + 50 * torch.atan(y.ys[-1])) - 20) < 1e-9


# Failures


def failure(field, solver="implicit_euler", y0=None, **settings):
    y0 = torch.ones(2, dtype=F64) if y0 is None else y0
    with torch.no_grad():
        solution = solve(field, y0, (0.0, 1.0), solver=solver, throw=False, **settings)
    return solution.status, solution.message


def test_a_singular_newton_matrix_is_named():
    status, message = failure(lambda t, y: y + 1, steps=1)
    assert status is Status.NONLINEAR and "singular" in message


def test_equations_without_a_solution_are_named():
    status, message = failure(lambda t, y: 1 + y**2, steps=1)  # y = 1 + 1 + y^2 has no real root
    assert status is Status.NONLINEAR and "did not converge" in message
    with pytest.raises(SolveError, match="did not converge"):
        solve(lambda t, y: 1 + y**2, torch.ones(2, dtype=F64), (0.0, 1.0), solver="implicit_euler", steps=1)


@pytest.mark.parametrize("solver", ["implicit_euler", "radauIIA5", "kvaerno5"])
def test_a_field_of_nan_ends_with_its_cause(solver):
    settings = {"steps": 3} if solver == "implicit_euler" else {}
    status, message = failure(lambda t, y: torch.where(t > 0.5, math.nan, 1.0) * y, solver, **settings)
    assert status in (Status.NONLINEAR, Status.NON_FINITE) and "NaN or infinite" in message


@pytest.mark.parametrize("solver", ["radauIIA5", "kvaerno5"])
def test_a_solution_that_blows_up_ends_with_a_status(solver):
    status, message = failure(lambda t, y: y**2 * 2, solver)  # to infinity at t = 1/2
    assert status in (Status.STEP_TOO_SMALL, Status.NONLINEAR, Status.NON_FINITE) and (
        "0.5" in message or "0.49999" in message
    )


@pytest.mark.parametrize("solver", ["radauIIA5", "kvaerno5"])
def test_one_failing_sample_does_not_stop_the_others(solver):
    field = lambda t, y: torch.where(y[:, :1] > 5, math.nan, 1.0) * y**2  # noqa: E731
    y0 = torch.tensor([[0.5], [1.5]], dtype=F64)
    status, _ = failure(field, solver, y0, per_sample=True)
    assert status[0] == Status.SUCCESS and status[1] != Status.SUCCESS
    with torch.no_grad():
        ys = solve(field, y0, (0.0, 1.0), solver=solver, per_sample=True, throw=False).ys
    assert float(ys[-1, 0]) == pytest.approx(1.0, abs=1e-4) and torch.isnan(ys[-1, 1])


def test_fixed_point_on_a_stiff_field_advises_newton():
    matrix = torch.diag(-torch.logspace(2, 5, 12, dtype=F64))
    solver = FixedStep("implicit_euler", steps=1, nonlinear=FixedPoint(memory=3, max_iterations=30))
    status, message = failure(lambda t, y: y @ matrix, solver, torch.ones(12, dtype=F64))
    assert status is Status.NONLINEAR and "use Newton" in message


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="no implicit equations"):
        FixedStep("rk4", nonlinear=Newton())
    with pytest.raises(InputError, match="theta must lie"):
        FixedStep("theta(1.5)")
    with pytest.raises(InputError, match="max_iterations"):
        Newton(max_iterations=1)
    with pytest.raises(InputError, match="damping"):
        FixedPoint(damping=0.0)
    with pytest.raises(InputError, match="did you mean"):
        FixedStep("radau5")
