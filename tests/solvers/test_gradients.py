"""Gradients with respect to y0, times, parameters and arguments."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from odenets import odeint, odeint_adjoint, solve
from odenets.solvers import IMPLICIT_TABLEAUS, SolveError
from odenets.solvers.solver import ADAPTIVE_METHODS

from .fields import ANY_FIELD

F64 = torch.float64
# the implicit methods, which differentiate their own way, are checked in test_implicit_gradients.py
DIFFERENTIABLE = [name for name in ANY_FIELD if name != "scipy_solver" and name not in IMPLICIT_TABLEAUS]


class Field(nn.Module):
    """A small non-autonomous nonlinear field; `spare` is never used."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.w = nn.Parameter(torch.randn(3, 3, dtype=F64, generator=generator))
        self.c = nn.Parameter(torch.randn(3, dtype=F64, generator=generator))
        self.spare = nn.Parameter(torch.ones(2, dtype=F64))

    def forward(self, t, y):
        return torch.tanh(y @ self.w + torch.sin(2 * t) * self.c)


@pytest.fixture
def field():
    return Field()


Y0 = torch.tensor([0.3, -0.8, 0.5], dtype=F64)
TS = torch.tensor([0.0, 0.4, 1.1], dtype=F64)


def settings(method):
    adaptive = method == "torchdiffeq" or method in ADAPTIVE_METHODS
    tight = {"rtol": 1e-6, "atol": 1e-7} if method == "bosh3" else {"rtol": 1e-9, "atol": 1e-11}
    return tight if adaptive else {"steps": 8}


def check(function, field):
    """gradcheck through y0, the times and the parameters."""
    names = [name for name, _ in field.named_parameters() if name != "spare"]
    inputs = [Y0.clone(), TS.clone(), *(getattr(field, name).detach().clone() for name in names)]

    def run(y0, ts, *values):
        parameters = dict(zip(names, values))

        def called(t, y):
            return torch.func.functional_call(field, parameters, (t, y))

        return function(called, y0, ts, values)

    inputs = [x.requires_grad_(True) for x in inputs]
    assert torch.autograd.gradcheck(run, inputs, eps=1e-6, atol=2e-5, rtol=1e-3)


# adaptive methods of order 2 are checked where they take few steps
SLOW = pytest.mark.slow  # a family that others of its kind stand for
LOW_ORDER = ("adaptive_heun", "fehlberg2", "reversible_heun")
FAST = [m for m in DIFFERENTIABLE if m not in (*LOW_ORDER, "rodas5p")]


@pytest.mark.parametrize("method", [pytest.param(m, marks=SLOW) if m == "torchdiffeq" else m for m in FAST])
def test_gradcheck_through_the_steps(method, field):
    check(lambda f, y0, ts, _: solve(f, y0, ts, solver=method, **settings(method)).ys, field)


@pytest.mark.parametrize("method", [*LOW_ORDER, "rodas5p"])
def test_gradcheck_through_the_steps_low_order(method, field):
    """With a fixed sequence of steps, since finite differences see the change of an adaptive one at a loose tolerance."""
    check(lambda f, y0, ts, _: solve(f, y0, ts, solver=method, steps=6).ys, field)


@pytest.mark.parametrize(
    "method", ["dopri5", *(pytest.param(m, marks=SLOW) for m in ("tsit5", "dopri8")), "bosh3", "scipy_solver"]
)
def test_gradcheck_of_the_adjoint(method, field):
    kwargs = {"rtol": 1e-6, "atol": 1e-7} if method == "bosh3" else {"rtol": 1e-10, "atol": 1e-12}
    check(
        lambda f, y0, ts, params: solve(f, y0, ts, solver=method, gradient="adjoint", params=params, **kwargs).ys, field
    )


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(m, marks=SLOW) if m in LOW_ORDER else m
        for m in DIFFERENTIABLE
        if m not in ("torchdiffeq", "rodas5p")
    ],
)
def test_adjoint_agrees_with_autograd(method, field):
    """Both converge to the same gradient; fixed-step methods to their own order."""
    small = {"rtol": 1e-9, "atol": 1e-11} if method in ADAPTIVE_METHODS else {"steps": 400}
    if method in (*LOW_ORDER, "bosh3"):
        small = {"rtol": 1e-6, "atol": 1e-7}
    tolerance = {"euler": 2e-2, "implicit_euler": 2e-2, "adaptive_heun": 1e-4, "fehlberg2": 1e-3}.get(method, 1e-4)
    results = []
    for gradient in ("autograd", "adjoint"):
        y0, ts = Y0.clone().requires_grad_(True), TS.clone().requires_grad_(True)
        field.zero_grad()
        ys = solve(field, y0, ts, solver=method, gradient=gradient, **small).ys
        (ys * torch.arange(1.0, 10.0, dtype=F64).reshape(3, 3)).sum().backward()
        results.append((y0.grad, ts.grad, field.w.grad.clone(), field.c.grad.clone()))
    for mine, reference in zip(*results):
        assert torch.allclose(mine, reference, rtol=tolerance, atol=tolerance)


def test_parameters_not_reached_get_zeros_from_the_adjoint(field):
    solve(field, Y0, TS, gradient="adjoint").ys.sum().backward()
    assert torch.equal(field.spare.grad, torch.zeros_like(field.spare))


def test_adjoint_with_a_field_that_needs_no_gradient():
    y0 = Y0.clone().requires_grad_(True)
    solve(lambda t, y: torch.ones_like(y) * torch.cos(t), y0, TS, gradient="adjoint", params=()).ys[-1].sum().backward()
    assert torch.allclose(y0.grad, torch.ones(3, dtype=F64))


def test_adjoint_of_a_plain_function_asks_for_its_parameters(field):
    with pytest.raises(ValueError, match="params="):
        solve(lambda t, y: field(t, y), Y0, TS, gradient="adjoint")
    solve(field.forward, Y0, TS, gradient="adjoint").ys.sum().backward()
    through_method = field.w.grad.clone()
    field.zero_grad()
    solve(field, Y0, TS, gradient="adjoint").ys.sum().backward()
    assert torch.equal(field.w.grad, through_method)


def test_arguments_get_gradients_from_the_adjoint():
    a = torch.tensor([0.5, 1.0, -0.3], dtype=F64, requires_grad=True)
    ys = solve(
        lambda t, y, rate: rate * y, Y0, (0.0, 2.0), args=(a,), params=(a,), gradient="adjoint", rtol=1e-10, atol=1e-12
    ).ys
    ys[-1].sum().backward()
    assert torch.allclose(a.grad, 2 * Y0 * torch.exp(2 * a.detach()), rtol=1e-6)


def test_adjoint_of_tree_and_complex_states():
    a = torch.tensor(0.7, dtype=F64, requires_grad=True)

    def field(t, state):
        x, z = state
        return -a * x * torch.cos(t), 1j * a * z

    results = []
    for gradient in ("autograd", "adjoint"):
        x = torch.ones(2, dtype=F64, requires_grad=True)
        z = torch.tensor([1.0 + 1j], dtype=torch.complex128, requires_grad=True)
        kwargs = {"params": (a,)} if gradient == "adjoint" else {}
        xs, zs = solve(field, (x, z), TS, gradient=gradient, rtol=1e-10, atol=1e-12, **kwargs).ys
        loss = xs.square().sum() + (zs.real * 2 - zs.imag**2).sum()
        results.append(torch.autograd.grad(loss, (x, z, a)))
    for mine, reference in zip(*results):
        assert mine.dtype == reference.dtype
        assert torch.allclose(mine, reference, rtol=1e-6, atol=1e-8)


def test_double_backward_through_the_steps(field):
    def run(y0):
        return solve(field, y0, TS, solver="rk4", steps=4).ys[-1]

    assert torch.autograd.gradgradcheck(run, (Y0.clone().requires_grad_(True),))


def test_double_backward_through_the_adjoint_is_refused(field):
    y0 = Y0.clone().requires_grad_(True)
    ys = solve(field, y0, TS, gradient="adjoint").ys
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        (grad,) = torch.autograd.grad(ys.square().sum(), y0, create_graph=True)
        grad.sum().backward()


def test_backward_statistics_and_carried_step_size(field):
    """The backward solve restarts nothing at the outputs: with ten of them it costs little more than with one."""
    costs = {}
    for outputs in (2, 11):
        ts = torch.linspace(0, 3, outputs, dtype=F64)
        y0 = Y0.clone().requires_grad_(True)
        solution = solve(field, y0, ts, gradient="adjoint", solver="dopri5", rtol=1e-7, atol=1e-7)
        assert solution.stats.nfe_backward is None
        solution.ys.square().sum().backward()
        costs[outputs] = solution.stats
    few, many = costs[2], costs[11]
    # six evaluations a step, one at each of the 1 or 10 starts, and one more, once, to choose the first size
    assert few.nfe_backward == 6 * (few.accepted_backward + few.rejected_backward) + 1 + 1
    assert many.nfe_backward == 6 * (many.accepted_backward + many.rejected_backward) + 10 + 1
    assert many.accepted_backward <= few.accepted_backward + 3 * 9


def test_memory_of_the_adjoint_does_not_grow_with_the_steps(field):
    def saved_bytes(gradient, t1):
        total = 0

        def pack(x):
            nonlocal total
            total += x.numel() * x.element_size()
            return x

        y0 = Y0.clone().requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            solve(field, y0, (0.0, t1), solver="rk4", steps=int(100 * t1), gradient=gradient)
        return total

    assert saved_bytes("adjoint", 10.0) == saved_bytes("adjoint", 1.0)
    assert saved_bytes("autograd", 10.0) > 8 * saved_bytes("autograd", 1.0)


def test_failure_of_the_backward_solve_is_reported():
    calls = []

    class Fails(nn.Module):
        def forward(self, t, y):
            calls.append(1)
            return -y * (torch.nan if torch.is_grad_enabled() else 1.0)

    y0 = Y0.clone().requires_grad_(True)
    ys = solve(Fails(), y0, TS, gradient="adjoint").ys
    with pytest.raises(SolveError, match="backward solve of the adjoint failed"):
        ys.sum().backward()


def test_scipy_without_adjoint_is_refused_where_gradients_are_wanted(field):
    with pytest.raises(ValueError, match="gradient='adjoint'"):
        solve(field, Y0, TS, solver="scipy_solver")
    with torch.no_grad():
        solve(field, Y0, TS, solver="scipy_solver")


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_gradient_through_times_is_the_field(method):
    """d y(t_i) / d t_i = f, and moving the start moves the solution backwards along the flow."""
    ts = TS.clone().requires_grad_(True)
    settings_ = {"rtol": 1e-10, "atol": 1e-12} if method == "dopri5" else {"steps": 200}
    ys = solve(lambda t, y: torch.cos(t) * y, torch.ones(1, dtype=F64), ts, solver=method, **settings_).ys
    (at_middle,) = torch.autograd.grad(ys[1].sum(), ts, retain_graph=True)
    exact = torch.exp(torch.sin(TS[1]))
    assert torch.allclose(
        at_middle, torch.stack([-exact, torch.cos(TS[1]) * exact, torch.zeros((), dtype=F64)]), atol=1e-5
    )


def test_odeint_and_odeint_adjoint_gradients_agree(field):
    grads = []
    for interface in (odeint, odeint_adjoint):
        y0 = Y0.clone().requires_grad_(True)
        field.zero_grad()
        interface(field, y0, TS, rtol=1e-10, atol=1e-12).sum().backward()
        grads.append((y0.grad, field.w.grad.clone()))
    for mine, reference in zip(*grads):
        assert torch.allclose(mine, reference, rtol=1e-7)
