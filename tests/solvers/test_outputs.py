"""What every adaptive method owes: outputs at each sample's own times, all steps, dense output, causes of failures."""

from __future__ import annotations

import math
import re

import pytest
import torch

from odenets.solvers import Adaptive, SolveError, SplitField, Status, solve
from odenets.solvers.solver import ADAPTIVE_METHODS, WALKERS

from .fields import coupled, coupled_exact

F64 = torch.float64
TOLERANCE = {"rtol": 1e-6, "atol": 1e-8}
LOW_ORDER = ("adaptive_heun", "fehlberg2")
PAIRS = ("reversible_heun",)  # a second state is carried along: one clock, and no derivative at the nodes
METHODS = [name for name in ADAPTIVE_METHODS if name not in PAIRS]
OWN_CLOCKS = [name for name in METHODS if name not in WALKERS]
STIFF = ("kvaerno3", "kvaerno5", "radauIIA5", "rodas5p", "kencarp4", "bdf", "auto_tsit5_rodas5p")


def for_method(field, method):
    """An additive method gets half of the field for either part."""
    if not method.startswith("kencarp"):
        return field
    return SplitField(lambda t, y: 0.5 * field(t, y), lambda t, y: 0.5 * field(t, y))


def close(method):
    return 3e-3 if method in LOW_ORDER else 3e-5


def tolerance(method):
    return {"rtol": 1e-5, "atol": 1e-7} if method in LOW_ORDER else TOLERANCE


@pytest.mark.parametrize("method", OWN_CLOCKS)
def test_outputs_at_the_times_of_each_sample_and_all_steps(method):
    ts = torch.tensor([[0.0, 0.3, 0.31, 1.0], [-1.0, -0.7, 0.2, 0.4]], dtype=F64)
    field, y0 = for_method(coupled, method), coupled_exact(ts[:, 0])
    solver = Adaptive(method, per_sample=True, **tolerance(method))
    ys = solve(field, y0, ts, solver=solver).ys
    assert torch.allclose(ys, coupled_exact(ts).transpose(0, 1), atol=close(method))
    steps = solve(field, y0, ts[:, [0, -1]], solver=solver, save_at="steps", dense=True)
    for i, count in enumerate(steps.counts.tolist()):
        assert steps.ts[i, 0] == ts[i, 0] and steps.ts[i, count - 1] == ts[i, -1]
        assert (steps.ts[i, :count].diff() > 0).all()
        assert torch.allclose(steps.ys[:count, i], coupled_exact(steps.ts[i, :count]), atol=close(method))
    assert torch.allclose(steps.dense(ts), ys, atol=1e-11)


@pytest.mark.parametrize("method", METHODS)
def test_all_steps_and_dense_output_with_one_clock(method):
    """Between the steps the error is of the size of that at the steps, where the polynomial keeps up with the method:
    the published ones of KenCarp4 and 5 are of order 3.
    """
    solver = Adaptive(method, **tolerance(method))
    solution = solve(for_method(coupled, method), coupled_exact(torch.zeros((), dtype=F64)), (0.0, 2.0), solver=solver,
                     save_at="steps", dense=True)  # fmt: skip
    assert len(solution.ts) == solution.stats.accepted + 1 and solution.ts[-1] == 2
    at_steps = (solution.ys - coupled_exact(solution.ts)).abs().max()
    between = torch.linspace(0, 2, 301, dtype=F64)
    anywhere = (solution.dense(between) - coupled_exact(between)).abs().max()
    assert at_steps < close(method)
    assert anywhere < (2e-4 if method in ("kencarp4", "kencarp5") else max(2.5e-5, 4 * at_steps))


@pytest.mark.parametrize(
    ("method", "order"),
    [
        ("kvaerno3", 3), ("kvaerno4", 3), ("kvaerno5", 4), ("radauIIA5", 3), ("rodas5p", 4),
        ("kencarp3", 2), ("kencarp4", 3), ("kencarp5", 3), ("adaptive_heun", 2), ("fehlberg2", 2),
    ],
)  # fmt: skip
def test_order_of_the_dense_output_within_one_step(method, order):
    """The uniform order; the explicit methods of higher order are in test_order."""
    errors = []
    for h in (0.2, 0.1):
        solver = Adaptive(method, first_step=h, min_step=h, rtol=1e-12, atol=1e-12)
        start = coupled_exact(torch.zeros((), dtype=F64))
        dense = solve(for_method(coupled, method), start, (0.0, h), solver=solver, dense=True).dense
        t = torch.linspace(0, h, 23, dtype=F64)
        errors.append(float((dense(t) - coupled_exact(t)).norm(dim=-1).max()))
    assert math.log2(errors[0] / errors[1]) > order + 1 - 0.4


@pytest.mark.parametrize("method", STIFF)
@pytest.mark.parametrize("per_sample", [False, True])
def test_a_field_that_turns_nan_has_a_status_and_keeps_what_was_computed(method, per_sample):
    if per_sample and method in WALKERS:
        return

    def field(t, y):
        return torch.where(t > 0.5, math.nan, 1.0).reshape(-1, 1) * -y

    solver = Adaptive(method, per_sample=per_sample, **TOLERANCE)
    with pytest.raises(SolveError, match="NaN or infinite|non-finite") as caught:
        solve(for_method(field, method), torch.ones(2, 1, dtype=F64), (0.0, 0.3, 1.0), solver=solver)
    solution = caught.value.solution
    assert all(code in (Status.NON_FINITE, Status.NONLINEAR) for code in torch.as_tensor(solution.status).reshape(-1))
    assert torch.allclose(solution.ys[1], torch.full((2, 1), math.exp(-0.3), dtype=F64), atol=1e-5)
    assert solution.ys[2].isnan().all()


@pytest.mark.parametrize("method", STIFF)
def test_a_step_size_of_a_singular_matrix_is_no_obstacle_and_a_pole_is_a_failure(method):
    """y' = y^2, y = 1/(1 - t): I - h gamma J is singular at h = 1/(2 gamma y), and no step passes t = 1."""
    start, field = torch.ones(1, dtype=F64), for_method(lambda t, y: y**2, method)
    gamma = {"rodas5p": 0.21193756319429014, "kvaerno5": 0.26}.get(method, 0.4358665215084590)
    ys = solve(field, start, (0.0, 0.9), solver=Adaptive(method, first_step=1 / (2 * gamma), **TOLERANCE)).ys
    assert float(ys[-1]) == pytest.approx(10.0, rel=1e-3)
    solution = solve(field, start, (0.0, 2.0), solver=Adaptive(method, rtol=1e-3, atol=1e-3), throw=False)
    assert solution.status in (Status.STEP_TOO_SMALL, Status.NONLINEAR, Status.NON_FINITE)
    assert float(re.search(r"t = ([0-9.]+[0-9])", solution.message)[1]) == pytest.approx(1.0, abs=0.02)
    assert torch.isnan(solution.ys[-1]).all()


@pytest.mark.parametrize("method", STIFF[:-1])
def test_a_slope_that_is_infinite_at_the_start_is_named_and_no_step_is_tried_for_ever(method):
    def field(t, y):
        return torch.stack([(y[..., 0] - 1).abs().sqrt() * 1e200, -y[..., 1]], -1)  # df/dy is infinite at y = 1

    for per_sample in (False, True)[: 1 + (method not in WALKERS)]:
        solver = Adaptive(method, per_sample=per_sample, **TOLERANCE)
        solution = solve(for_method(field, method), torch.ones(2, 2, dtype=F64), (0.0, 1.0), solver=solver, throw=False)
        assert all(
            int(s) in (Status.NON_FINITE, Status.NONLINEAR) for s in torch.as_tensor(solution.status).reshape(-1)
        )
        assert "NaN or infinite" in solution.message
        assert int(torch.as_tensor(solution.stats.rejected).max()) < 100
