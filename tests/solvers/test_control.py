"""Step size control: the formula, acceptance, limits, stops, and what is said when a solve fails."""

from __future__ import annotations

import math

import pytest
import torch

from odenets import solve
from odenets.solvers import Adaptive, InputError, PIDController, SolveError, Status

from .fields import COUPLED_START, coupled, coupled_exact

F64 = torch.float64
ONE = torch.ones(1, dtype=F64)


def test_elementary_controller_is_hairers_formula():
    controller = PIDController(0, 1, 0, safety=0.8, factor_min=0.1, factor_max=5.0)
    for ratio in (0.01, 0.5, 1.0, 3.0, 40.0):
        expected = min(5.0, max(0.1, 0.8 * ratio ** (-1 / 5)))
        assert controller.factor(5, ratio, 1.0, 1.0) == pytest.approx(expected)


def test_pid_controller_is_soderlinds_formula():
    p, i, d = 0.2, 0.4, 0.1
    controller = PIDController(p, i, d, factor_min=1e-3, factor_max=1e3, shrink_accepted=True)
    ratios = (0.7, 0.3, 0.9)
    expected = 0.9 * ratios[0] ** (-(p + i + d) / 4) * ratios[1] ** ((p + 2 * d) / 4) * ratios[2] ** (-d / 4)
    assert controller.factor(4, *ratios) == pytest.approx(expected)


def test_tensor_and_float_give_the_same_factor():
    controller = PIDController(0.4, 0.3, 0.05)
    ratios = [0.0, 1e-12, 0.2, 0.99, 1.0, 1.01, 1e6, math.inf, math.nan]
    previous, before = 0.5, 0.8
    floats = [controller.factor(5, r, previous, before) for r in ratios]
    tensor = torch.tensor(ratios, dtype=F64)
    full = torch.full_like(tensor, previous), torch.full_like(tensor, before)
    assert controller.factor(5, tensor, *full).tolist() == pytest.approx(floats)


def test_accepted_step_is_kept_from_shrinking_on_request():
    assert PIDController(0, 1, 0, shrink_accepted=False).factor(5, 0.999, 1.0, 1.0) == 1.0
    assert PIDController(0, 1, 0).factor(5, 0.999, 1.0, 1.0) == pytest.approx(0.9, abs=1e-3)


def test_nonfinite_ratio_shrinks_as_far_as_allowed():
    assert PIDController().factor(5, math.nan, 1.0, 1.0) == 0.2
    assert PIDController().factor(5, math.inf, 1.0, 1.0) == 0.2


@pytest.mark.parametrize("arguments", [{"safety": 0.0}, {"safety": 1.5}, {"factor_min": 2.0}, {"factor_max": 0.5}])
def test_controller_refuses_senseless_bounds(arguments):
    with pytest.raises(ValueError, match="safety|factor_min"):
        PIDController(**arguments)


@pytest.mark.parametrize(
    "controller", [PIDController(), PIDController(0, 1, 0, shrink_accepted=False), PIDController(0.3, 0.3, 0.05)]
)
def test_every_controller_meets_the_tolerance(controller):
    ts = torch.linspace(0, 6, 13, dtype=F64)
    solution = solve(coupled, COUPLED_START, ts, solver=Adaptive("tsit5", rtol=1e-8, atol=1e-8, controller=controller))
    assert (solution.ys - coupled_exact(ts)).abs().max() < 5e-7
    assert solution.stats.nfe == 6 * (solution.stats.accepted + solution.stats.rejected) + 2


def test_solve_never_evaluates_beyond_its_interval():
    times = []

    def field(t, y):
        times.append(float(t))
        return -y

    solve(field, ONE, (0.0, 0.7), solver="dopri5")
    assert min(times) == 0.0
    assert max(times) == 0.7


def test_max_step_bounds_every_step_and_min_step_accepts():
    solution = solve(coupled, COUPLED_START, (0.0, 3.0), save_at="steps", max_step=0.1)
    assert solution.ts.diff().max() <= 0.1 + 1e-12
    coarse = solve(coupled, COUPLED_START, (0.0, 3.0), save_at="steps", rtol=1e-10, atol=1e-12, min_step=0.5)
    assert coarse.stats.accepted == 6
    assert coarse.stats.rejected == 0


def test_fixed_grid_hits_fractions_of_the_interval_to_the_last_bit():
    for start, end in ((0.0, 1.0), (1.0, 0.0)):
        solution = solve(coupled, COUPLED_START, (start, end), solver="rk4", steps=6, save_at="steps")
        expected = [start + (end - start) * k / 6 for k in (0, 3, 6)]
        assert [float(solution.ts[k]) for k in (0, 3, 6)] == expected
        assert {1 / 3, 2 / 3} <= set(solution.ts.tolist())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_states_are_solved_at_a_fitting_tolerance(dtype):
    y0 = torch.tensor([0.5, 1.0], dtype=dtype)
    solution = solve(coupled, y0, (0.0, 1.0), rtol=1e-2, atol=1e-8)
    exact = coupled_exact(torch.tensor(1.0, dtype=F64))
    assert solution.ys.dtype == dtype
    assert torch.allclose(solution.ys[-1].double(), exact, rtol=3e-2)


def test_first_step_is_taken_as_given():
    solution = solve(coupled, COUPLED_START, (0.0, 3.0), save_at="steps", first_step=0.0123)
    assert float(solution.ts[1]) == pytest.approx(0.0123)


def test_step_times_are_stepped_on():
    step_t = [0.3, 1.7, 2.9]
    solution = solve(coupled, COUPLED_START, (0.0, 3.0), save_at="steps", step_t=step_t)
    assert set(step_t) <= set(solution.ts.tolist())
    backward = solve(coupled, COUPLED_START, (3.0, 0.0), save_at="steps", step_t=step_t)
    assert set(step_t) <= set(backward.ts.tolist())


def test_jump_time_is_seen_from_both_sides_and_saves_evaluations():
    times = []

    def field(t, y):
        times.append(float(t))
        return torch.where(t < 0.5, -y, 3 * y)

    exact = math.exp(-0.5 + 1.5)
    smooth = solve(field, ONE, (0.0, 1.0), rtol=1e-9, atol=1e-9, jump_t=[0.5])
    seen = times.copy()
    assert float(smooth.ys[-1]) == pytest.approx(exact, rel=1e-7)
    assert 0.5 not in seen
    assert math.nextafter(0.5, 0.0) in seen
    assert math.nextafter(0.5, 1.0) in seen
    blind = solve(field, ONE, (0.0, 1.0), rtol=1e-9, atol=1e-9)
    assert smooth.stats.nfe < blind.stats.nfe / 2


def test_nan_field_is_named_as_the_cause():
    def field(t, y):
        return torch.where(t < 0.5, -y, y * torch.nan)

    with pytest.raises(SolveError, match=r"vector field is NaN or infinite.*t = 0\.[45]") as failure:
        solve(field, ONE, torch.linspace(0, 1, 11))
    solution = failure.value.solution
    assert solution.status is Status.NON_FINITE
    # nothing computed is lost: the outputs before the failure are there, the rest is NaN
    assert torch.allclose(solution.ys[:5, 0], torch.exp(-torch.linspace(0, 0.4, 5, dtype=F64)), atol=1e-5)
    assert solution.ys[6:].isnan().all()


@pytest.mark.parametrize("t0", [0.0, 1.0])
def test_nan_at_the_start_fails_at_once(t0):
    calls = []

    def field(t, y):
        calls.append(1)
        return y * torch.nan

    with pytest.raises(SolveError, match="vector field is NaN"):
        solve(field, ONE, (t0, t0 + 1))
    assert len(calls) < 12


def test_nan_in_y0_is_named():
    with pytest.raises(SolveError, match="non-finite values in state"):
        solve(coupled, torch.tensor([0.5, math.nan], dtype=F64), (0.0, 1.0))


def test_blow_up_is_reported_where_it_happens():
    # y' = y^2 from 1 has a pole at t = 1
    solution = solve(lambda t, y: y**2, ONE, (0.0, 2.0), throw=False)
    assert not solution.success
    assert solution.status in (Status.STEP_TOO_SMALL, Status.NON_FINITE)
    assert "t = 1" in solution.message or "t = 0.9999" in solution.message


def test_max_steps_is_a_status_with_a_way_out():
    solution = solve(coupled, COUPLED_START, (0.0, 10.0), max_steps=5, throw=False)
    assert solution.status is Status.MAX_STEPS
    assert "allow more steps" in solution.message
    assert solution.stats.accepted + solution.stats.rejected == 5


def test_fixed_step_overflow_is_found_at_the_end():
    with pytest.raises(SolveError, match="non-finite"):
        solve(lambda t, y: y**2, ONE, torch.linspace(0, 3, 50), solver="rk4")
    solution = solve(lambda t, y: y**2, ONE, torch.linspace(0, 3, 50), solver="rk4", throw=False)
    assert not solution.success


@pytest.mark.parametrize(
    ("ts", "message"),
    [
        ([0.0, 1.0, 1.0], "strictly"),
        ([0.0, 1.0, 0.5], "strictly"),
        ([0.0, math.nan], "finite"),
        ([[0.0, 1.0]], "one dimensional"),
        ([], "one dimensional"),
    ],
)
def test_wrong_times_are_refused(ts, message):
    with pytest.raises(InputError, match=message):
        solve(coupled, COUPLED_START, torch.tensor(ts))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": "dorpi5"}, "did you mean dopri5"),
        ({"solver": "tsit5", "rtoll": 1e-3}, "did you mean rtol"),
        ({"solver": "euler", "rtol": 1e-3}, "no setting 'rtol'"),
        ({"solver": Adaptive("dopri5"), "steps": 4}, "no setting 'steps'"),
        ({"gradient": "adjont"}, "unknown gradient"),
        ({"save_at": "everything"}, "unknown save_at"),
        ({"solver": "dopri5", "rtol": -1.0}, "must not be negative"),
        ({"solver": "rk4", "steps": 3, "step_size": 0.1}, "mutually exclusive"),
        ({"solver": "rk4", "steps": 0}, "at least 1"),
        ({"per_sample": True, "gradient": "adjoint"}, "one step size for the batch"),
        ({"solver": 5}, "solver must be a name"),
    ],
)
def test_wrong_arguments_are_refused_before_the_solve(arguments, message):
    def field(t, y):
        raise AssertionError("the field was called")

    with pytest.raises(ValueError, match=message):
        solve(field, COUPLED_START, (0.0, 1.0), **arguments)


def test_a_method_without_error_estimate_cannot_be_adaptive():
    with pytest.raises(ValueError, match="rk4"):
        Adaptive("rk4")


def test_field_of_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape of the state \(2,\), got \(3,\)"):
        solve(lambda t, y: torch.zeros(3, dtype=F64), COUPLED_START, (0.0, 1.0))
    with pytest.raises(ValueError, match="structure of y0"):
        solve(lambda t, y: {"a": y["a"]}, {"a": ONE, "b": ONE}, (0.0, 1.0))
    with pytest.raises(ValueError, match="must return a tensor"):
        solve(lambda t, y: (y,), ONE, (0.0, 1.0))


def test_integer_state_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"\.float\(\)"):
        solve(coupled, torch.tensor([1, 2]), (0.0, 1.0))
