"""Steady states against closed forms, and their gradients against finite differences."""

from __future__ import annotations

import sys

import pytest
import torch

from odenets.solvers import InputError, SolveError, Status, steady_state

F64 = torch.float64
MATRIX = torch.tensor([[-2.0, 1.0, 0.0], [0.3, -1.0, 0.2], [0.0, 0.5, -4.0]], dtype=F64)
FORCING = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
METHODS = ("newton", "flow")


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_field_settles_where_its_inverse_says_with_that_gradient(method):
    a, b = MATRIX.clone().requires_grad_(), FORCING.clone().requires_grad_()
    found = steady_state(lambda t, y: a @ y + b, torch.zeros(3, dtype=F64), method=method, tolerance=1e-8)
    wanted = -torch.linalg.solve(a, b)
    assert torch.allclose(found.y, wanted, rtol=0, atol=1e-7)
    assert float(found.residual) <= 1e-8
    weights = torch.tensor([1.0, -0.5, 2.0], dtype=F64)
    got = torch.autograd.grad(found.y @ weights, (a, b))
    for mine, reference in zip(got, torch.autograd.grad(wanted @ weights, (a, b))):
        assert torch.allclose(mine, reference, rtol=0, atol=1e-7)


def test_a_nonlinear_batch_against_finite_differences():
    """Each system has its own root, coupled within a system of two; batch of four. The flow gives the same."""
    c = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.1], [10.0, 2.0]], dtype=F64, requires_grad=True)

    def run(c, method="newton", tolerance=1e-12):
        def field(t, y):
            return c - y - y**3 - 0.3 * y.flip(-1)

        return steady_state(field, torch.zeros(4, 2, dtype=F64), method=method, tolerance=tolerance, per_sample=True).y

    assert torch.autograd.gradcheck(run, c)
    y = run(c)
    assert torch.allclose(c, y + y**3 + 0.3 * y.flip(-1), rtol=0, atol=1e-11)
    settled = run(c, "flow", 1e-6)
    assert torch.allclose(settled, y, rtol=0, atol=1e-5)
    (wanted,), (got,) = (torch.autograd.grad(found.sum(), c) for found in (y, settled))
    assert torch.allclose(got, wanted, rtol=0, atol=1e-5)


def test_newton_finds_an_unstable_state_and_flow_a_stable_one():
    def field(t, y):
        return y - y**3

    start = torch.tensor([0.2], dtype=F64)
    assert steady_state(field, start, method="newton").y.item() == pytest.approx(0.0, abs=1e-8)
    assert steady_state(field, start, method="flow", tolerance=1e-6).y.item() == pytest.approx(1.0, abs=1e-6)


def test_large_states_take_their_gradient_without_a_matrix(monkeypatch):
    module = sys.modules["odenets.solvers.steady_state"]  # the name in the package is the function
    size = 40
    generator = torch.Generator().manual_seed(0)
    a = -3 * torch.eye(size, dtype=F64) + torch.randn(size, size, dtype=F64, generator=generator) / size
    b = torch.randn(size, dtype=F64, generator=generator).requires_grad_()

    def gradient():
        y = steady_state(lambda t, y: a @ y + torch.tanh(y) + b, torch.zeros(size, dtype=F64)).y
        return torch.autograd.grad(y.square().sum(), b)[0]

    dense = gradient()
    monkeypatch.setattr(module, "_DENSE", 1)
    assert torch.allclose(gradient(), dense, rtol=1e-10)


def test_tuples_and_single_precision():
    a = torch.tensor(3.0, requires_grad=True)
    found = steady_state(
        lambda t, x, s: (a - x[0], s * x[0] - x[1]), (torch.zeros(2), torch.zeros(2)), tolerance=1e-5, args=(2.0,)
    )
    assert found.y[1].dtype == torch.float32
    assert torch.allclose(found.y[1], torch.full((2,), 6.0))
    assert torch.autograd.grad(found.y[1].sum(), a)[0].item() == pytest.approx(4.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_single_precision_settles_with_the_default_tolerance(method, scale):
    """A network of 32 units, a state of order one; against the same in double precision."""
    torch.manual_seed(0)
    weight, bias = torch.randn(32, 32, dtype=F64) / 12, torch.randn(32, dtype=F64)

    def found(dtype):
        w, b = weight.to(dtype), bias.to(dtype)
        return steady_state(
            lambda t, y: scale * (torch.tanh(w @ y + b) - y), torch.zeros(32, dtype=dtype), method=method
        )

    single, double = found(torch.float32), found(F64)
    assert single.status is Status.SUCCESS and float(double.residual) <= 1e-8
    assert torch.allclose(single.y.double(), double.y, atol=2e-5)


@pytest.mark.parametrize(
    ("field", "settings", "status"),
    [
        (lambda t, y: torch.ones_like(y), {}, Status.NONLINEAR),
        (lambda t, y: 1 + y * y, {}, Status.NONLINEAR),
        (lambda t, y: y * float("nan"), {}, Status.NON_FINITE),
        (lambda t, y: torch.ones_like(y), {"method": "flow", "horizon": 10.0}, Status.MAX_STEPS),
        (lambda t, y: 1 + y * y, {"method": "flow"}, None),
    ],
    ids=["singular", "no root", "nan", "never settles", "blows up"],
)
def test_failures_end_with_their_cause(field, settings, status):
    start = torch.full((2,), 0.3, dtype=F64)
    found = steady_state(field, start, throw=False, **settings)
    assert found.message
    assert found.status == status or (status is None and found.status != Status.SUCCESS)
    with pytest.raises(SolveError, match=r"\w"):
        steady_state(field, start, **settings)


def test_wrong_input_says_what_to_write():
    with pytest.raises(InputError, match="newton or flow"):
        steady_state(lambda t, y: y, torch.ones(1), method="picard")
    with pytest.raises(InputError, match="tolerance must be positive"):
        steady_state(lambda t, y: y, torch.ones(1), tolerance=0.0)
    with pytest.raises(InputError, match="real state"):
        steady_state(lambda t, y: y, torch.ones(1, dtype=torch.complex64))
