"""Rodas5P: order, stiff references, one clock and a clock per sample, gradients, failures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from odenets import solve
from odenets.solvers import Adaptive, FixedStep, InputError, Status
from odenets.solvers.implicit.slopes import Slopes

from .differences import assert_gradients_match_differences
from .fields import COUPLED_START, coupled, coupled_exact
from .stiff import STIFF, prothero_robinson, relative_error, robertson

F64 = torch.float64


def errors_over_steps(numbers, interpolation="dense", points=1) -> list[float]:
    errors = []
    for n in numbers:
        ts = torch.linspace(0, 4.0, points + 1, dtype=F64)
        solver = FixedStep("rodas5p", steps=n, interpolation=interpolation)
        with torch.no_grad():
            ys = solve(coupled, COUPLED_START, ts, solver=solver).ys
        errors.append(float((ys - coupled_exact(ts)).norm(dim=-1).max()))
    return errors


def slope(numbers, errors) -> float:
    return -np.polyfit(np.log(numbers), np.log(errors), 1)[0]


def test_order_five_on_a_nonautonomous_field():
    numbers = [24, 34, 48]
    assert slope(numbers, errors_over_steps(numbers)) == pytest.approx(5, abs=0.25)


@pytest.mark.parametrize(("interpolation", "order"), [("dense", 4), ("cubic", 3)])
def test_order_of_the_dense_output(interpolation, order):
    """At points that fall inside of steps, the interpolation's own local error dominates: one order more."""
    errors = []
    for h in (0.4, 0.2):
        t = torch.linspace(0, h, 17, dtype=F64)
        solver = FixedStep("rodas5p", grid_constructor=lambda f, y, ts: ts[[0, -1]], interpolation=interpolation)
        errors.append(float((solve(coupled, COUPLED_START, t, solver=solver).ys - coupled_exact(t)).norm(dim=-1).max()))
    assert math.log2(errors[0] / errors[1]) > order + 1 - 0.35


def test_an_autonomous_jacobian_alone_would_lose_the_order(monkeypatch):
    """df/dt is needed: without it the order is far below five."""
    original = Slopes.__call__
    monkeypatch.setattr(Slopes, "__call__", lambda self, t, y: (original(self, t, y)[0], torch.zeros_like(y)))
    numbers = [24, 34, 48]
    assert slope(numbers, errors_over_steps(numbers)) < 4


@pytest.mark.parametrize("name", STIFF)
def test_stiff_references(name):
    problem = STIFF[name]
    with torch.no_grad():
        solution = solve(
            problem.field, problem.y0, (0.0, problem.end), solver="rodas5p", rtol=1e-6, atol=problem.atol,
            save_at="end",
        )  # fmt: skip
    assert relative_error(problem, solution.ys[-1]) < 1e-5


def test_a_very_stiff_mode_is_damped_in_one_step():
    y0 = torch.ones(1, dtype=F64)
    y1 = solve(lambda t, y: -1e6 * y, y0, (0.0, 1.0), solver="rodas5p", steps=1).ys[-1]
    assert abs(float(y1)) < 2e-5
    ts = (0.0, 2.0)
    followed = solve(prothero_robinson, torch.zeros(1, dtype=F64), ts, solver="rodas5p", steps=20).ys[-1]
    assert abs(float(followed) - math.sin(2.0)) < 1e-8


def stiff_relaxation(t, y):
    """Two components, stiff and non-autonomous; t may be [batch]."""
    slow, fast = y.unbind(-1)
    return torch.stack([-slow * torch.cos(t), -300.0 * (fast - slow**2 * torch.cos(t))], -1)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_clock_per_sample_equals_every_sample_alone(backwards):
    starts = torch.tensor([[1.0, 0.0], [0.3, 2.0], [2.0, 2.0]], dtype=F64)
    ts = torch.tensor([0.0, 0.05, 0.7, 2.0], dtype=F64)
    sign = -1.0 if backwards else 1.0

    def field(t, y):
        return sign * stiff_relaxation(sign * t, y)

    settings = {"solver": "rodas5p", "rtol": 1e-6, "atol": 1e-9}
    together = solve(field, starts, sign * ts, per_sample=True, **settings)
    for i, start in enumerate(starts):
        alone = solve(field, start, sign * ts, **settings)
        assert int(together.stats.accepted[i]) == alone.stats.accepted
        assert torch.allclose(together.ys[:, i], alone.ys, rtol=1e-9, atol=1e-12)
    assert len(set(together.stats.accepted.tolist())) > 1


def test_independent_samples_get_jacobians_of_their_own_and_coupled_ones_a_joint_one():
    y = torch.rand(4, 3, dtype=F64)
    t = torch.tensor(0.3, dtype=F64)
    own = Slopes(robertson)
    assert own(t, y)[0].shape == (4, 3, 3)
    mixing = torch.rand(4, 4, dtype=F64)
    joint = Slopes(lambda t, y: torch.sin(t) * mixing @ y**2)
    jacobian, along_t = joint(t, y)
    expected = torch.func.jacrev(lambda y: torch.sin(t) * mixing @ y**2)(y).reshape(12, 12)
    assert torch.allclose(jacobian, expected)
    assert torch.allclose(along_t, torch.cos(t) * mixing @ y**2)


@pytest.mark.parametrize("per_sample", [False, True])
def test_slopes_by_rows_and_by_tangents_agree(per_sample):
    y = torch.rand(3, 2, dtype=F64)
    t = torch.tensor([0.3, 0.5, 0.9], dtype=F64) if per_sample else torch.tensor(0.3, dtype=F64)
    slopes = Slopes(lambda t, y: coupled(t, y), 1)
    rows, tangents = slopes._by_rows(t, y), slopes._by_tangents(t, y)
    for by_row, by_tangent in zip(rows, tangents):
        assert torch.allclose(by_row, by_tangent, atol=1e-14)
    cos, sin = torch.cos(t), torch.sin(t)
    expected = torch.stack([-(y[:, 0] ** 2) * sin, -y.prod(1) * (cos**2 + (2 - sin) * sin)], -1)
    assert torch.allclose(tangents[1], expected)


class Relaxation(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor([40.0, 0.7], dtype=F64))

    def forward(self, t, y):
        slow, fast = y.unbind(-1)
        return torch.stack([-self.rate[1] * slow**2, -self.rate[0] * (fast - torch.cos(t) * slow)], -1)


@pytest.mark.parametrize("per_sample", [False, True])
def test_gradient_is_that_of_the_discrete_steps(per_sample):
    """Against central differences of the same steps: a fixed tolerance far looser than the gradient's error."""
    field = Relaxation()
    start = torch.tensor([[1.0, 0.2], [0.4, 0.9]], dtype=F64, requires_grad=True)

    def loss() -> torch.Tensor:
        # min_step = max_step: the same steps whatever the parameters are
        solver = Adaptive("rodas5p", min_step=0.25, max_step=0.25, first_step=0.25, per_sample=per_sample)
        ys = solve(field, start, torch.tensor([0.0, 0.6, 1.0], dtype=F64), solver=solver).ys
        return (ys[1:] ** 2 * torch.tensor([1.0, 2.0], dtype=F64)).sum()

    assert_gradients_match_differences(loss, (start, field.rate), step=1e-5, rel=1e-6, abs=1e-9)


def test_gradient_with_respect_to_times():
    ts = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    solution = solve(coupled, COUPLED_START, ts, solver="rodas5p", rtol=1e-9, atol=1e-11)
    (gradient,) = torch.autograd.grad(solution.ys[-1].sum(), ts)
    assert float(gradient[1]) == pytest.approx(float(coupled(ts[1], coupled_exact(ts[1])).sum().detach()), rel=1e-6)


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_field_that_becomes_nan_is_named_as_the_cause(per_sample):
    def field(t, y):
        return torch.where(y > 2.0, torch.full_like(y, math.nan), y)

    solution = solve(
        field, torch.ones(2, 1, dtype=F64), (0.0, 3.0), solver="rodas5p", per_sample=per_sample, throw=False
    )
    assert bool((torch.as_tensor(solution.status) == Status.NON_FINITE).all())
    assert "NaN" in solution.message


def test_a_singular_matrix_is_named_as_the_cause():
    """With y' = y / (h gamma) the matrix 1 - h gamma J is exactly zero at the only step size allowed."""
    from odenets.solvers.methods.rodas5p import RODAS5P

    h = 0.6
    rate = 1 / (h * RODAS5P.gamma)
    assert rate * (h * RODAS5P.gamma) == 1
    solver = Adaptive("rodas5p", first_step=h, min_step=h, max_step=h)
    y0 = torch.ones(1, dtype=F64)
    solution = solve(lambda t, y: rate * y, y0, (0.0, 2.0), solver=solver, throw=False)
    assert solution.status == Status.NONLINEAR
    assert "singular" in solution.message


def test_complex_states_are_refused():
    with pytest.raises(InputError, match="real"):
        solve(lambda t, y: 1j * y, torch.ones(1, dtype=torch.complex128), (0.0, 1.0), solver="rodas5p")


@pytest.mark.parametrize("method", ["rodas5p", "auto_tsit5_rodas5p"])
def test_the_adjoint_is_refused_and_the_way_out_named(method):
    with pytest.raises(InputError, match="use gradient='interpolating_adjoint' .*'autograd' or 'checkpoint'"):
        solve(Relaxation(), torch.ones(2, dtype=F64), (0.0, 1.0), solver=method, gradient="adjoint")


def test_checkpointed_gradients_are_those_of_autograd():
    field = Relaxation()
    found = []
    for gradient in ("autograd", "checkpoint"):
        ys = solve(field, torch.ones(2, dtype=F64), (0.0, 1.0), solver="rodas5p", gradient=gradient, rtol=1e-5).ys
        found.append(torch.autograd.grad(ys[-1].sum(), field.rate)[0])
    assert torch.allclose(*found, rtol=1e-12)
