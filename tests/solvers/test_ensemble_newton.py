"""Ensembles by implicit Runge-Kutta methods: the eager solve's steps, reference digits, closed forms, failures."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import solve_ivp

from odenets.solvers import Event, InputError, Newton, NewtonKrylov, Status, solve
from odenets.solvers.methods.kvaerno3 import KVAERNO3

from .fields import coupled, coupled_exact
from .stiff import STIFF, prothero_robinson, relative_error, robertson

F64 = torch.float64
pytestmark = pytest.mark.usefixtures("compiled")
slow = pytest.mark.slow(reason="compiles programs of some seconds each")


def forced(t, y, mu):
    """Van der Pol's oscillator with a forcing; y [batch, 2], t and mu [batch]."""
    x, v = y.unbind(-1)
    return torch.stack([v, mu * ((1 - x**2) * v - x + torch.cos(3 * t))], -1)


STARTS = torch.tensor([[2.0, 0.0], [-0.5, 1.0], [0.1, -3.0], [1.5, 2.0], [0.0, 0.0]], dtype=F64)
MU = torch.tensor([1.0, 30.0, 300.0, 1e3, 5.0], dtype=F64)


def both(field, y0, ts, **settings):
    return [solve(field, y0, ts, throw=False, **settings, **{how: True}) for how in ("ensemble", "per_sample")]


@pytest.mark.parametrize(
    "method",
    ["kvaerno5", *(pytest.param(name, marks=slow) for name in ("kvaerno3", "kvaerno4", "radauIIA5"))],
)
def test_steps_and_states_are_those_of_the_eager_loop(method, fresh_jacobians):
    """One program for both directions of time, all tolerances and all parameters."""
    mild = torch.tensor([1.0, 3.0, 30.0, 10.0, 5.0], dtype=F64)
    for direction, rtol, y0, mu in ((1.0, 1e-5, STARTS, mild), (-1.0, 1e-4, STARTS / 4, mild / 30)):
        ts = direction * torch.tensor([0.0, 0.1, 0.5, 0.6, 1.5], dtype=F64)
        found, eager = both(forced, y0, ts, solver=method, args=(mu,), rtol=rtol, atol=1e-7)
        assert found.success
        assert torch.equal(found.stats.accepted, eager.stats.accepted)
        assert torch.equal(found.stats.rejected, eager.stats.rejected)
        assert torch.allclose(found.ys, eager.ys, rtol=1e-8, atol=1e-9)
        trials = int((found.stats.accepted + found.stats.rejected).max())
        assert found.stats.jacobians == found.stats.factorisations == trials
        assert found.stats.nfe == found.stats.iterations * (3 if method == "radauIIA5" else 1) + 2 <= eager.stats.nfe
    assert len(set(found.stats.accepted.tolist())) > 3


@slow
def test_jacobians_that_the_eager_loop_keeps_change_steps_within_the_iterations_tolerance():
    found, eager = both(forced, STARTS, (0.0, 0.1, 1.5), solver="kvaerno5", args=(MU,), rtol=1e-6, atol=1e-8)
    trials = [x.stats.accepted + x.stats.rejected for x in (found, eager)]
    assert bool(((trials[0] - trials[1]).abs() <= 0.02 * trials[1] + 2).all())
    assert torch.allclose(found.ys, eager.ys, rtol=1e-5, atol=1e-6)


@slow
@pytest.mark.parametrize("name", STIFF)
@pytest.mark.parametrize("method", ["kvaerno4", "kvaerno5", "radauIIA5"])
def test_reference_digits(name, method):
    problem = STIFF[name]
    y0 = problem.y0.expand(9, -1)
    settings = {"solver": method, "rtol": 1e-6, "atol": problem.atol, "ensemble": True}
    solution = solve(problem.field, y0, (0.0, problem.end), **settings)
    assert relative_error(problem, solution.ys[-1]) < 1e-5


@slow
def test_rates_of_their_own_against_scipys_radau():
    rates, ts = torch.logspace(-1, 1, 4, dtype=F64), torch.tensor([0.0, 1.0, 100.0, 1e4], dtype=F64)
    y0 = torch.tensor([[1.0, 0.0, 0.0]], dtype=F64).expand(4, 3)
    ys = solve(robertson, y0, ts, solver="kvaerno5", args=(rates,), rtol=1e-7, atol=1e-11, ensemble=True).ys
    for i, rate in enumerate(rates.tolist()):
        exact = solve_ivp(
            lambda t, y, rate=rate: robertson(t, torch.from_numpy(y), rate).numpy(), (0, 1e4), [1.0, 0, 0], "Radau", ts,
            rtol=1e-9, atol=1e-13,
        ).y.T  # fmt: skip
        assert bool(((ys[:, i] - torch.from_numpy(exact)).abs() <= 1e-5 * torch.from_numpy(exact).abs()).all())


def test_stiff_solution_that_depends_on_time_with_an_event():
    """Prothero and Robinson: sin t, at 1/2 for t = pi / 6; in both precisions, for a field without a batch too."""
    event = Event(lambda t, y: y[..., 0] - 0.5)
    ts = torch.linspace(0, 2, 7, dtype=F64)
    for dtype, rtol, wanted in ((F64, 1e-7, 1e-6), (torch.float32, 1e-3, 1e-3)):
        y0 = torch.zeros(11, 1, dtype=dtype)
        solution = solve(
            lambda t, y: prothero_robinson(torch.as_tensor(t)[..., None], y, 1e4), y0, ts, solver="kvaerno3", rtol=rtol,
            atol=rtol, events=[event], ensemble=True,
        )  # fmt: skip
        assert solution.ys.dtype == dtype
        assert (solution.ys[..., 0] - torch.sin(ts)[:, None]).abs().max() < wanted
        assert (solution.events[0].ts - math.pi / 6).abs().max() < wanted


@slow
@pytest.mark.parametrize(("method", "order"), [("kvaerno3", 3), ("kvaerno4", 4), ("kvaerno5", 5), ("radauIIA5", 5)])
def test_order_on_a_field_that_depends_on_time(method, order):
    ts, errors = torch.tensor([0.0, 1.0], dtype=F64), []
    y0 = coupled_exact(ts[:1]).expand(3, -1)
    for steps in (20, 40):
        size = {"first_step": 1 / steps, "min_step": 1 / steps, "max_step": 1 / steps, "rtol": 1e-9, "atol": 1e-9}
        solution = solve(coupled, y0, ts, solver=method, ensemble=True, **size)
        assert abs(int(solution.stats.accepted[0]) - steps) <= 1
        errors.append(float((solution.ys[-1] - coupled_exact(ts[1:])).abs().max()))
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.4


def pole(t, y):
    return 3 * (1 + y**2)


@pytest.mark.parametrize(
    ("field", "size", "words"),
    [
        pytest.param(pole, 10.0, "Newton's iteration diverged", marks=slow),
        (lambda t, y: 4 * y, 0.25 / KVAERNO3.a[-1][-1], "the Newton matrix I - h gamma J is singular"),
    ],
)
def test_equations_without_a_solution_have_their_status_and_cause(field, size, words):
    """At the only step size allowed: tan runs into its pole; 1 - h gamma J is zero."""
    assert 4 * (0.25 / KVAERNO3.a[-1][-1]) * KVAERNO3.a[-1][-1] == 1
    settings = {
        "solver": "kvaerno3",
        "first_step": size,
        "min_step": size,
        "max_step": size,
        "rtol": 1e-3,
        "atol": 1e-6,
    }
    found, eager = both(field, torch.ones(3, 1, dtype=F64), (0.0, 20.0), **settings)
    assert (found.status == int(Status.NONLINEAR)).all()
    assert found.message == eager.message
    assert words in found.message
    assert found.ys[-1].isnan().all()


def test_failures_leave_the_others_solved():
    """A pole, NaN at the start, and rejected steps whose equations had no solution on the way."""
    y0 = torch.tensor([[1.0], [-1.0], [math.nan]], dtype=F64)
    ts = torch.linspace(0, 2, 5, dtype=F64)
    settings = {"solver": "kvaerno3", "first_step": 2.0, "throw": False, "rtol": 1e-6, "atol": 1e-9, "ensemble": True}
    solution = solve(lambda t, y: y**2, y0, ts, **settings)
    assert solution.status[0] != Status.SUCCESS
    assert solution.status[1:].tolist() == [Status.SUCCESS, Status.NON_FINITE]
    assert torch.allclose(solution.ys[:, 1, 0], -1 / (1 + ts), atol=1e-5)
    assert torch.allclose(solution.ys[:2, 0, 0], 1 / (1 - ts[:2]), atol=1e-4)
    assert solution.stats.rejected[0] > 0


@slow
def test_settings_of_the_iteration_mean_what_they_mean_in_the_loop(fresh_jacobians):
    for nonlinear in (Newton(max_iterations=2), Newton(max_iterations=4, kappa=1e-5)):
        settings = {"solver": "kvaerno3", "args": (MU.sqrt(),), "nonlinear": nonlinear, "rtol": 1e-2, "atol": 1e-3}
        found, eager = both(forced, STARTS, (0.0, 1.0), **settings)
        assert torch.equal(found.stats.accepted, eager.stats.accepted)
        assert torch.equal(found.stats.rejected, eager.stats.rejected)
        assert torch.allclose(found.ys, eager.ys, rtol=1e-8, atol=1e-9)
    assert found.stats.iterations > found.stats.jacobians * 2


@slow
@pytest.mark.parametrize("method", ["kvaerno5", "radauIIA5"])
def test_single_precision_takes_about_the_loops_steps(method, fresh_jacobians):
    settings = {"solver": method, "args": (MU.float(),), "rtol": 1e-3, "atol": 1e-4}
    found, eager = both(forced, STARTS.float(), (0.0, 0.5, 1.0), **settings)
    assert (found.stats.accepted - eager.stats.accepted).abs().max() <= 2
    assert torch.allclose(found.ys, eager.ys, rtol=5e-3, atol=1e-3)


def test_what_is_not_taken_is_refused():
    y0 = torch.ones(2, 1, dtype=F64)
    with pytest.raises(InputError, match="rodas5p, kvaerno3 to 5, radauIIA5"):
        solve(lambda t, y: -y, y0, (0.0, 1.0), ensemble=True, solver="kvaerno3", nonlinear=NewtonKrylov())
    with pytest.raises(InputError, match="at most 8 equations, got 9"):
        solve(lambda t, y: -y, torch.ones(2, 9, dtype=F64), (0.0, 1.0), solver="kvaerno3", ensemble=True)


@slow
@pytest.mark.parametrize("method", ["kvaerno3", "kvaerno4", "kvaerno5"])
def test_gradient_is_that_of_autograd_through_the_same_steps(method, fresh_jacobians):
    """Of starts, own and shared parameters, at outputs inside the steps too."""
    ts = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=F64)
    weights, found = torch.randn(4, 5, 2, dtype=F64, generator=torch.Generator().manual_seed(0)), []
    for how in ("ensemble", "per_sample"):
        y0, mu, force = STARTS.clone(), MU.sqrt(), torch.tensor([0.7], dtype=F64)
        for x in (y0, mu, force):
            x.requires_grad_(True)
        ys = solve(
            lambda t, y, mu, force: forced(t, y, mu) + (force * y.sin() ** 2 + torch.sin(t)[:, None]), y0, ts,
            solver=method, args=(mu, force), rtol=1e-5, atol=1e-7, **{how: True},
        ).ys  # fmt: skip
        found.append(torch.autograd.grad((ys * weights).sum(), (y0, mu, force)))
    for ours, eager in zip(*found):
        assert torch.allclose(ours, eager, rtol=1e-7, atol=1e-9)


def test_gradient_of_a_stiff_solution_in_closed_form():
    """y' = -rate (y - cos t) - sin t: y = cos t + (y0 - 1) exp(-rate t)."""
    y0 = torch.tensor([[2.0], [3.0], [0.0]], dtype=F64, requires_grad=True)
    rate = torch.tensor([1.0, 20.0, 1e4], dtype=F64, requires_grad=True)
    ts = torch.tensor([0.0, 0.1, 1.0], dtype=F64)

    def field(t, y, rate):
        return -rate[:, None] * (y - torch.cos(t)[:, None]) - torch.sin(t)[:, None]

    settings = {"solver": "kvaerno3", "args": (rate,), "rtol": 1e-7, "atol": 1e-9}
    for how in ({"ensemble": True}, {"per_sample": True, "compile": "solve"}):
        ys = solve(field, y0, ts, **settings, **how).ys
        for k in (1, 2):
            by_start, by_rate = torch.autograd.grad(ys[k].sum(), (y0, rate), retain_graph=True)
            decay = torch.exp(-rate * ts[k])
            assert torch.allclose(by_start[:, 0], decay, rtol=0, atol=1e-5)
            assert torch.allclose(by_rate, -ts[k] * (y0[:, 0] - 1) * decay, rtol=0, atol=1e-5)


def test_gradients_that_a_program_does_not_have_are_refused():
    y0 = torch.ones(2, 1, dtype=F64, requires_grad=True)
    for settings in ({"solver": "radauIIA5"}, {"solver": "kvaerno3", "nonlinear": Newton(twice_differentiable=True)}):
        with pytest.raises(InputError, match="no such gradient"):
            solve(lambda t, y: -y, y0, (0.0, 1.0), ensemble=True, **settings)
