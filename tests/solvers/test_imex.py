"""KenCarp3, 4 and 5 on split fields: order, stiffness, clocks, gradients, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from odenets import solve
from odenets.solvers import Adaptive, FixedStep, InputError, SplitField, Status
from odenets.solvers.implicit.newton import Newton

from .differences import assert_gradients_match_differences
from .fields import COUPLED_START, coupled, coupled_exact

F64 = torch.float64
ORDERS = {"kencarp3": 3, "kencarp4": 4, "kencarp5": 5}


def coupled_explicit(t, y):
    y1, y2 = y.unbind(-1)
    return torch.stack([0.5 * y1**2 * torch.cos(t), 2 * y1 * y2 * torch.cos(t)], -1)


SPLIT = SplitField(coupled_explicit, lambda t, y: coupled(t, y) - coupled_explicit(t, y))


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_order_on_a_nonautonomous_split_field(name, direction):
    """Both parts depend on time and on both components, so that every coupling condition counts."""
    numbers, errors = [16, 23, 32], []
    end = torch.tensor(direction * 4.0, dtype=F64)
    for n in numbers:
        with torch.no_grad():
            ys = solve(SPLIT, COUPLED_START, torch.stack([0 * end, end]), solver=FixedStep(name, steps=n)).ys
        errors.append(float((ys[-1] - coupled_exact(end)).norm()))
    assert -np.polyfit(np.log(numbers), np.log(errors), 1)[0] > ORDERS[name] - 0.4


@pytest.mark.parametrize("name", ORDERS)
def test_error_follows_the_tolerance(name):
    errors = []
    for tol in (1e-4, 1e-7):
        with torch.no_grad():
            ys = solve(SPLIT, COUPLED_START, (0.0, 5.0), solver=name, rtol=tol, atol=tol).ys
        errors.append(float((ys[-1] - coupled_exact(torch.tensor(5.0, dtype=F64))).norm()))
    assert errors[1] < 1e-5 and errors[1] < errors[0] / 100


@pytest.mark.parametrize("name", ORDERS)
def test_the_implicit_part_may_be_as_stiff_as_it_likes(name):
    stiff = SplitField(lambda t, y: torch.cos(t).expand_as(y), lambda t, y: -1e6 * (y - torch.sin(t)))
    with torch.no_grad():
        solution = solve(stiff, torch.zeros(1, dtype=F64), (0.0, 2.0), solver=name, rtol=1e-5, atol=1e-8)
        starts = torch.tensor([[0.0], [1.0]], dtype=F64)
        ends = solve(stiff, starts, (0.0, 1.0), solver=name, steps=1).ys[-1]
    assert abs(float(solution.ys[-1]) - math.sin(2.0)) < 1e-4
    assert solution.stats.accepted < 500  # an explicit method takes half a million
    assert abs(float(ends[1] - ends[0])) < 2e-5  # the stiff mode is gone after one step of z = -1e6


@pytest.mark.parametrize("name", ORDERS)
def test_a_clock_per_sample_equals_every_sample_alone(name):
    field = SplitField(
        lambda t, y: torch.cos(t)[..., None] * y if t.dim() else torch.cos(t) * y, lambda t, y: -30 * y**3
    )
    starts = torch.tensor([[1.0, 0.1], [0.3, 2.0], [3.0, 2.0]], dtype=F64)
    ts = torch.tensor([0.0, 0.05, 0.7, 2.0], dtype=F64)
    settings = {"solver": name, "rtol": 1e-6, "atol": 1e-9}
    with torch.no_grad():
        together = solve(field, starts, ts, per_sample=True, **settings)
        for i, start in enumerate(starts):
            alone = solve(field, start, ts, **settings)
            assert abs(int(together.stats.accepted[i]) - alone.stats.accepted) <= 1
            assert torch.allclose(together.ys[:, i], alone.ys, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("per_sample", [False, True])
def test_gradient_is_that_of_the_steps_taken(per_sample):
    rates = torch.tensor([0.7, 50.0], dtype=F64, requires_grad=True)
    start = torch.tensor([[1.0], [0.4]], dtype=F64, requires_grad=True)
    field = SplitField(
        lambda t, y: -rates[0] * y**2, lambda t, y: -rates[1] * (y + 0.1 * torch.sin(y) - torch.cos(t).reshape(-1, 1))
    )

    def loss():
        solver = Adaptive(
            "kencarp4", 1e-9, 1e-10, first_step=0.25, min_step=0.25, max_step=0.25, per_sample=per_sample,
            nonlinear=Newton(max_iterations=40),
        )  # fmt: skip
        return (solve(field, start, torch.tensor([0.0, 0.6, 1.0], dtype=F64), solver=solver).ys[1:] ** 2).sum()

    assert_gradients_match_differences(loss, (rates, start), step=1e-4, rel=1e-5, abs=1e-8)


def test_a_field_that_is_not_split_is_refused():
    with pytest.raises(InputError, match="SplitField.*kvaerno5 or rodas5p"):
        solve(coupled, COUPLED_START, (0.0, 1.0), solver="kencarp4")


def test_other_solvers_take_the_sum():
    expected = solve(coupled, COUPLED_START, (0.0, 1.0), solver="rk4", steps=10).ys
    assert torch.allclose(solve(SPLIT, COUPLED_START, (0.0, 1.0), solver="rk4", steps=10).ys, expected, rtol=1e-13)


def test_trees_are_summed_leaf_by_leaf():
    field = SplitField(
        lambda t, y: {"a": -y["a"], "b": y["a"].sum()[None]}, lambda t, y: {"a": t * y["a"], "b": -9 * y["b"]}
    )
    y0 = {"a": torch.ones(2, dtype=F64), "b": torch.zeros(1, dtype=F64)}
    ours, expected = (solve(field, y0, (0.0, 1.0), solver=s, rtol=1e-8, atol=1e-10).ys for s in ("kencarp5", "dopri8"))
    assert torch.allclose(ours["b"][-1], expected["b"][-1], rtol=1e-6)


@pytest.mark.parametrize("part", ["explicit", "implicit"])
def test_a_nan_in_either_part_ends_the_solve(part):
    def bad(t, y):
        return torch.where(y > 1.5, torch.full_like(y, math.nan), y)

    parts = {"explicit": lambda t, y: 0 * y, "implicit": lambda t, y: 0 * y} | {part: bad}
    y0 = torch.ones(1, dtype=F64)
    solution = solve(SplitField(**parts), y0, (0.0, 3.0), solver="kencarp3", rtol=1e-3, throw=False)
    assert solution.status in (Status.NON_FINITE, Status.NONLINEAR)
    assert "NaN" in solution.message
