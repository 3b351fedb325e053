"""Exponential methods: order, exactness in the linear part, stiff order, layouts, gradients."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from odenets import solve
from odenets.solvers import FixedStep, InputError, SemilinearField
from odenets.solvers.methods import ETDRK4, EXPONENTIAL, ONE_STEP

F64 = torch.float64
NAMES = [method.name for method in EXPONENTIAL]
MATRIX = torch.tensor([[-3.0, 1.0, 0.0], [-2.0, -1.0, 0.5], [0.3, 0.0, -8.0]], dtype=F64)


def exact(t):
    """The solution that the fields below are built around."""
    return torch.stack([torch.sin(t) + 2, torch.cos(2 * t), torch.exp(-t)], -1)


def slope(t):
    return torch.stack([torch.cos(t), -2 * torch.sin(2 * t), -torch.exp(-t)], -1)


def bend(y):
    return torch.stack([y[..., 1] * y[..., 2], torch.sin(y[..., 0]), y[..., 0] * y[..., 1]], -1)


def manufactured(linear=MATRIX):
    """y' = L y + N(t, y), non-autonomous and nonlinear in N, solved by `exact`."""
    part = torch.diag(linear) if linear.dim() == 1 else linear
    return SemilinearField(linear, lambda t, y: slope(t) - exact(t) @ part.T + bend(y) - bend(exact(t)))


def uneven_grid(n, length):
    grid = torch.linspace(0, 1, n + 1, dtype=F64)
    return length * (grid + 0.02 * torch.sin(2 * math.pi * grid))


def measured_order(method, length, ns=(40, 56, 80), field=None):
    errors = []
    for n in ns:
        ts = uneven_grid(n, length)
        ys = solve(field or manufactured(), exact(ts[0]), ts, solver=FixedStep(method)).ys
        errors.append(float((ys - exact(ts)).square().mean().sqrt()))
    assert errors[-1] > 1e-13, "below rounding: take fewer steps"
    return -np.polyfit(np.log(ns), np.log(errors), 1)[0]


# backwards the linear part grows by e^8, so the asymptotic regime is reached over a shorter interval
@pytest.mark.parametrize("length", [1.0, -0.5])
@pytest.mark.parametrize("linear", [MATRIX, MATRIX.diagonal()], ids=["matrix", "diagonal"])
@pytest.mark.parametrize("method", EXPONENTIAL, ids=NAMES)
def test_measured_order_on_a_nonautonomous_field(method, linear, length):
    assert measured_order(method.name, length, field=manufactured(linear)) == pytest.approx(method.order, abs=0.2)


@pytest.mark.parametrize("part", ["node", "weight"])
def test_a_wrong_coefficient_would_be_seen(part, monkeypatch):
    good = ETDRK4
    wrong_row = (((1.0, 1, 1.0), (-1.0, 1, 1.0)), (), ((1.0, 1, 1.0),))
    changes = {"node": {"c": (0.0, 0.5, 0.5, 0.5)}, "weight": {"a": (*good.a[:2], wrong_row)}}
    monkeypatch.setitem(ONE_STEP, "etdrk4", dataclasses.replace(good, **changes[part]))
    assert measured_order("etdrk4", 1.0) < 3.5


@pytest.mark.parametrize("method", EXPONENTIAL, ids=NAMES)
def test_weights_of_a_stage_sum_to_the_phi_function_of_its_node(method):
    """sum_j a_ij(z) = c_i phi_1(c_i z), sum_i b_i(z) = phi_1(z): constant N is integrated exactly (Hochbruck,
    Ostermann 2005, eq. 2.5)."""
    for c, row in method.rows:
        total: dict[tuple[int, float], float] = {}
        for factor, k, at in (term for weight in row for term in weight):
            total[k, at] = total.get((k, at), 0.0) + factor
        assert {key: value for key, value in total.items() if value} == {(1, c): c}


@pytest.mark.parametrize(("name", "slope"), [("etdrk4", (1.5, 3.2)), ("hochost4", (3.8, 4.2))])
def test_order_on_a_parabolic_problem(name, slope):
    """u_t = u_xx + 1 / (1 + u^2) + forcing with u = x (1 - x) e^t (Hochbruck, Ostermann 2005, section 6): |h L| = 2e4 at
    the coarsest. etdrk4 loses order, hochost4 keeps it."""
    size = 100
    x = torch.linspace(0, 1, size + 2, dtype=F64)[1:-1]
    ones = torch.ones(size, dtype=F64)
    laplacian = (torch.diag(-2 * ones) + torch.diag(ones[1:], 1) + torch.diag(ones[1:], -1)) * (size + 1) ** 2

    def u(t):
        return x * (1 - x) * torch.exp(torch.as_tensor(t, dtype=F64))

    field = SemilinearField(laplacian, lambda t, y: 1 / (1 + y * y) + u(t) + 2 * torch.exp(t) - 1 / (1 + u(t) ** 2))
    ns, errors = (8, 16, 32), []
    for n in ns:
        end = solve(field, u(0.0), (0.0, 1.0), solver=FixedStep(name, steps=n)).ys[-1]
        errors.append(float((end - u(1.0)).abs().max()))
    assert slope[0] < -np.polyfit(np.log(ns), np.log(errors), 1)[0] < slope[1]


@pytest.mark.parametrize("name", NAMES)
def test_exact_on_linear_problems_for_any_step(name):
    """With N constant every method is exact: y = e^{tL} y0 + t phi_1(tL) g, for one step or many, stiff or not."""
    for scale in (1e-9, 1.0, 50.0):
        matrix, g = scale * MATRIX, torch.tensor([1.0, -2.0, 0.5], dtype=F64)
        augmented = np.zeros((4, 4))
        augmented[:3, :3], augmented[:3, 3] = matrix, g
        y0 = exact(torch.tensor(0.0, dtype=F64))
        wanted = (scipy.linalg.expm(1.7 * augmented) @ np.append(y0, 1.0))[:3]
        for steps in (1, 7):
            field = SemilinearField(matrix, lambda t, y, g=g: g)
            ys = solve(field, y0, (0.0, 1.7), solver=FixedStep(name, steps=steps)).ys
            np.testing.assert_allclose(ys[-1], wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_exact_at_z_of_minus_a_million(name, diagonal):
    """y' = -1e6 y + 3 in one step of size 1 beside y' = -y + 3: closed form to rounding, and no trace of the transient
    in the dense output either."""
    rates = torch.tensor([-1e6, -1.0], dtype=F64)
    linear = rates if diagonal else torch.diag(rates)
    ts = torch.tensor([0.0, 1e-7, 0.4, 1.0], dtype=F64)
    field = SemilinearField(linear, lambda t, y: torch.full_like(y, 3.0))
    y0 = torch.tensor([5.0, 5.0], dtype=F64)
    ys = solve(field, y0, ts, solver=FixedStep(name, steps=1)).ys
    wanted = torch.exp(rates * ts[:, None]) * y0 + 3 * torch.expm1(rates * ts[:, None]) / rates
    assert torch.allclose(ys, wanted, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_dense_output_has_the_methods_order(name):
    errors = []
    for h in (0.2, 0.1):
        dense = solve(
            manufactured(), exact(torch.zeros((), dtype=F64)), (0.0, h), solver=name, steps=1, dense=True
        ).dense
        t = torch.linspace(0, h, 11, dtype=F64)
        errors.append(float((dense(t) - exact(t)).norm(dim=-1).max()))
        saved = solve(manufactured(), exact(t[0]), t, solver=name, steps=1).ys
        assert torch.allclose(dense(t), saved, rtol=1e-14, atol=1e-14)
    assert math.log2(errors[0] / errors[1]) > ONE_STEP[name].order + 1 - 0.4


def test_matrices_per_sample_are_separate_systems():
    matrices = torch.stack([MATRIX, 0.5 * MATRIX.T, torch.zeros_like(MATRIX)])
    y0 = torch.randn(3, 2, 3, dtype=F64, generator=torch.Generator().manual_seed(0))

    def nonlinear(t, y):
        return torch.sin(y) * torch.cos(t)

    ys = solve(SemilinearField(matrices, nonlinear), y0, (0.0, 1.0), solver="etdrk4", steps=5).ys
    for i in range(3):
        alone = solve(SemilinearField(matrices[i], nonlinear), y0[i], (0.0, 1.0), solver="etdrk4", steps=5).ys
        assert torch.allclose(ys[:, i], alone, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("diagonal", [True, False])
def test_tuple_states_with_a_linear_part_for_each(diagonal):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*shape, dtype=F64, generator=generator) for shape in ((4, 3), (2,)))
    linear = (-torch.rand(4, 3, dtype=F64, generator=generator), torch.tensor([-2.0, 0.5], dtype=F64))
    if not diagonal:
        linear = (MATRIX, torch.tensor([[0.0, 2.0], [-2.0, -0.1]], dtype=F64))

    def nonlinear(t, x, strength):
        return strength * torch.sin(x[0]) * x[1].sum() * torch.cos(t), x[1] * x[0].mean()

    field = SemilinearField(linear, nonlinear, diagonal=diagonal)
    got = solve(field, (a, b), (0.0, 1.0), solver="hochost4", steps=40, args=(0.5,)).ys
    wanted = solve(field, (a, b), (0.0, 1.0), solver="dopri8", rtol=1e-12, atol=1e-12, args=(0.5,)).ys
    for mine, reference in zip(got, wanted):
        assert mine.shape == reference.shape
        assert torch.allclose(mine[-1], reference[-1], atol=1e-7)


def test_a_spectral_method_with_complex_modes():
    """Viscous Burgers in Fourier modes, u_t = nu u_xx - u u_x, against a fine explicit solve."""
    n, nu = 32, 0.1
    k = torch.fft.fftfreq(n, 1 / n).to(F64)
    u0 = torch.sin(torch.arange(n, dtype=F64) * 2 * math.pi / n)

    def nonlinear(t, modes):
        u = torch.fft.ifft(modes)
        return -0.5j * k * torch.fft.fft(u * u)

    field = SemilinearField(-nu * k**2, nonlinear)
    got = solve(field, torch.fft.fft(u0), (0.0, 1.0), solver="etdrk4", steps=50).ys[-1]
    wanted = solve(field, torch.fft.fft(u0), (0.0, 1.0), solver="dopri8", rtol=1e-11, atol=1e-11).ys[-1]
    assert torch.allclose(got, wanted, atol=1e-6 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_against_finite_differences(name):
    """With respect to y0, L, the nonlinear part's weights and the times, over a uniform grid whose steps share phi."""
    y0 = torch.tensor([0.3, -0.2], dtype=F64, requires_grad=True)
    linear = torch.tensor([[-1.0, 0.7], [0.2, -4.0]], dtype=F64, requires_grad=True)
    weight = torch.tensor([[0.5, -1.0], [0.3, 0.8]], dtype=F64, requires_grad=True)
    ts = torch.tensor([0.0, 0.35, 0.8], dtype=F64, requires_grad=True)

    def run(y0, linear, weight, times):
        class Owner(nn.Module):
            def linear_parts(self):
                return [(linear, False)]

            def nonlinear(self, t, y):
                return torch.tanh(weight @ y) * torch.cos(t)

            def forward(self, t, y):
                return linear @ y + self.nonlinear(t, y)

        return solve(Owner(), y0, times, solver=name, steps=3).ys

    assert torch.autograd.gradcheck(run, (y0, linear, weight, ts.detach()))
    assert torch.autograd.gradcheck(run, (y0.detach(), linear.detach(), weight.detach(), ts))


@pytest.mark.parametrize("gradient", ["checkpoint", "recursive"])
def test_steps_run_again_give_the_same_gradient(gradient):
    """Also where steps of one size share their phi functions, and a learned L is behind them."""

    def pulled(gradient):
        field = SemilinearField(nn.Parameter(MATRIX), lambda t, y: torch.sin(y) * torch.cos(t))
        y0 = torch.ones(3, dtype=F64, requires_grad=True)
        ys = solve(field, y0, (0.0, 0.5, 1.0), solver=FixedStep("etdrk4", steps=8), gradient=gradient).ys
        return torch.autograd.grad(ys.square().sum(), (y0, *field.parameters()))

    for got, wanted in zip(pulled(gradient), pulled("autograd")):
        assert torch.allclose(got, wanted, rtol=1e-13, atol=1e-14)


def test_phi_functions_are_computed_once_per_step_size(monkeypatch):
    from odenets.solvers.structured import exponential

    calls = []
    original = exponential.phi_matrices

    def counted(*args):
        calls.append(args)
        return original(*args)

    monkeypatch.setattr(exponential, "phi_matrices", counted)
    solve(manufactured(), exact(torch.zeros((), dtype=F64)), (0.0, 4.0), solver="etdrk4", steps=64)  # h = 1/16 exactly
    assert len(calls) == 2  # of z and of z / 2


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (F64, 1e-9)])
def test_dtype_is_kept(dtype, tolerance):
    field = SemilinearField(MATRIX.to(dtype), lambda t, y: bend(y) * torch.cos(t))
    y0 = exact(torch.zeros((), dtype=F64)).to(dtype)
    ys = solve(field, y0, (0.0, 0.5), solver="hochost4", steps=50).ys
    assert ys.dtype == dtype
    assert field.linear_parts()[0][0].dtype == dtype
    wide = solve(field.to(F64), y0.to(F64), (0.0, 0.5), solver="dopri8", rtol=1e-12, atol=1e-12).ys
    assert torch.allclose(ys[-1].to(F64), wide[-1], atol=tolerance)


def test_learned_linear_part_is_a_parameter_and_others_are_buffers():
    assert [n for n, _ in SemilinearField(nn.Parameter(MATRIX), bend).named_parameters()] == ["linear_0"]
    assert [n for n, _ in SemilinearField(MATRIX, bend).named_buffers()] == ["linear_0"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solve(lambda t, y: -y, torch.ones(3), (0.0, 1.0), solver="etdrk4"), "SemilinearField"),
        (lambda: SemilinearField(torch.ones(2, 3), bend), r"\[2, 3\]"),
        (lambda: SemilinearField(3.0, bend), "float"),
        (lambda: solve(manufactured(), torch.ones(4, dtype=F64), (0.0, 1.0), solver="etd1"), "does not act"),
        (lambda: solve(manufactured(), (torch.ones(3),) * 2, (0.0, 1.0), solver="etd1"), "tree like the state"),
        (
            lambda: solve(SemilinearField(1j * torch.ones(3), bend), torch.ones(3), (0.0, 1.0), solver="etd1"),
            "complex state",
        ),
        (
            lambda: solve(manufactured(), torch.ones(3), (0.0, 1.0), solver=FixedStep("etd1", interpolation="cubic")),
            "interpolation must be dense",
        ),
    ],
)
def test_wrong_input_says_what_to_write(call, message):
    with pytest.raises(InputError, match=message):
        call()
