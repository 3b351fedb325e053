"""Continuous adjoints: what they cost, where they are accurate, and that their quadrature is the method's own."""

from __future__ import annotations

import pytest
import torch
import torchdiffeq
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from odenets import odeint_adjoint, solve
from odenets.solvers import SolveError
from tests.solvers.test_gradient_methods import F64, Field, start, weighted

ADJOINTS = ("adjoint", "interpolating_adjoint")
TS = torch.tensor([0.0, 0.4, 0.45, 1.1, 1.3], dtype=F64)


def found(gradient, ts=TS, **settings):
    """Gradients of y0, the times, the parameters and an argument."""
    field, y0, rate = Field(), start(), torch.tensor(0.9, dtype=F64, requires_grad=True)
    ts = ts.clone().requires_grad_()
    weighted(solve(field, y0, ts, args=(rate,), gradient=gradient, **settings).ys).backward()
    assert gradient == "autograd" or not field.spare.grad.any()
    return [y0.grad, ts.grad, field.w.grad, field.c.grad, rate.grad]


@pytest.mark.parametrize("gradient", ADJOINTS)
@pytest.mark.parametrize("ts", [TS, TS.flip(0), TS[:2]], ids=["forward", "reverse", "one interval"])
@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"solver": "dopri5", "rtol": 1e-9, "atol": 1e-10}, 1e-7),
        ({"solver": "tsit5", "rtol": 1e-9, "atol": 1e-10, "jump_t": [0.2, 0.7]}, 1e-7),
        ({"solver": "dopri8", "rtol": 1e-9, "atol": 1e-10}, 1e-6),
        ({"solver": "bosh3", "rtol": 1e-7, "atol": 1e-8}, 1e-5),
        ({"solver": "rk4", "steps": 160}, 1e-7),
        ({"solver": "heun3", "step_size": 0.005}, 1e-6),
    ],
    ids=lambda x: str(x.get("solver")) if isinstance(x, dict) else "",
)
def test_converges_to_the_gradient(gradient, ts, settings, tolerance):
    reference = found("autograd", ts, solver="dopri8", rtol=1e-11, atol=1e-12)
    for mine, exact in zip(found(gradient, ts, **settings), reference):
        assert float((mine - exact).abs().max()) < tolerance * (1 + float(exact.abs().max()))


@pytest.mark.parametrize("gradient", ADJOINTS)
def test_converges_with_the_order_of_the_method(gradient):
    """rk4, whose dense output is a cubic: an error of h^4 in the state between the nodes."""
    exact = found("autograd", TS[[0, 4]], solver="dopri8", rtol=1e-12, atol=1e-13)
    errors = []
    for steps in (10, 20, 40):
        mine = found(gradient, TS[[0, 4]], solver="rk4", steps=steps)
        errors.append(max(float((a - b).abs().max()) for a, b in zip(mine, exact)))
    for coarse, fine in zip(errors, errors[1:]):
        assert 10 < coarse / fine < 26


@pytest.mark.parametrize("gradient", ADJOINTS)
def test_trees_complex_states_and_their_norms(gradient):
    a = torch.tensor(0.7, dtype=F64, requires_grad=True)

    def field(t, state):
        return {"x": -a * state["x"] * torch.cos(t), "z": 1j * a * state["z"]}

    results = []
    for method in (gradient, "autograd"):
        x = torch.ones(2, dtype=F64, requires_grad=True)
        z = torch.tensor([1.0 + 1j], dtype=torch.complex128, requires_grad=True)
        norm = lambda state: state["x"].abs().max() + state["z"].abs().max()  # noqa: E731
        ys = solve(field, {"x": x, "z": z}, TS, gradient=method, params=(a,), rtol=1e-9, atol=1e-10, norm=norm).ys
        loss = ys["x"].square().sum() + (ys["z"].real * 2 - ys["z"].imag ** 2).sum()
        results.append(torch.autograd.grad(loss, (x, z, a)))
    for mine, reference in zip(*results):
        assert mine.dtype == reference.dtype
        assert torch.allclose(mine, reference, rtol=1e-6, atol=1e-7)


def test_quadrature_is_what_the_method_computes_with_the_integral_in_its_state():
    """Against the interface that carries the parameters' integral as a state; its rk4 is the 3/8 rule."""
    results = []
    for in_the_state in (False, True):
        field, y0 = Field(), start()
        if in_the_state:
            ys = odeint_adjoint(field, y0, TS[[0, 1, 4]], method="rk4", options={"step_size": 0.1})
        else:
            ys = solve(field, y0, TS[[0, 1, 4]], solver="rk4_38", step_size=0.1, gradient="adjoint").ys
        (ys[-1] * torch.arange(1.0, 4.0, dtype=F64)).sum().backward()
        results.append((y0.grad, field.w.grad, field.c.grad))
    for mine, other in zip(*results):
        assert torch.allclose(mine, other, rtol=1e-9)


class Stiff(nn.Module):
    """y' = -rate (y - cos t) - a y^3: contracts at the rate and more; backward, y is infinite in finite time."""

    def __init__(self, rate):
        super().__init__()
        self.rate, self.a = rate, nn.Parameter(torch.tensor(0.5, dtype=F64))

    def forward(self, t, y):
        return -self.rate * (y - torch.cos(t)) - self.a * y**3


def test_along_the_kept_path_where_the_state_cannot_be_solved_backward():
    """Over 2 units of time the backward state of y grows by more than e^80; the adjoint itself decays."""
    gradients = {}
    for method in ("autograd", "interpolating_adjoint", "adjoint"):
        field, y0 = Stiff(40.0), torch.tensor([0.2, -0.4], dtype=F64, requires_grad=True)
        try:
            ys = solve(field, y0, (0.0, 2.0), gradient=method, rtol=1e-7, atol=1e-8, max_steps=3000).ys
            ys[-1].square().sum().backward()
            gradients[method] = float(field.a.grad)
        except SolveError:
            gradients[method] = float("nan")
    assert gradients["interpolating_adjoint"] == pytest.approx(gradients["autograd"], rel=1e-4)
    assert not abs(gradients["adjoint"] - gradients["autograd"]) < abs(gradients["autograd"])


class Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.total = self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.total += 1
        self.reads += func.__name__.startswith(("_local_scalar_dense", "is_nonzero", "nonzero"))
        return func(*args, **(kwargs or {}))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))

    def forward(self, t, y):
        return self.net(y)


@pytest.mark.parametrize(("gradient", "part"), [("adjoint", 5), ("interpolating_adjoint", 3)])
def test_backward_takes_a_fraction_of_torchdiffeqs_operations(gradient, part):
    """An MLP, ten output times, both at 1e-6."""
    ts, field = torch.linspace(0, 1, 10, dtype=F64), Net()
    y0 = torch.randn(32, 16, requires_grad=True)
    tolerances = {"rtol": 1e-6, "atol": 1e-6}
    solution = solve(field, y0, ts, gradient=gradient, **tolerances)
    theirs = torchdiffeq.odeint_adjoint(field, y0, ts, **tolerances)
    counts, gradients = [], []
    for ys in (solution.ys, theirs):
        field.zero_grad()
        loss = ys[1:].square().mean()
        with Counter() as counter:
            loss.backward()
        counts.append(counter)
        gradients.append(field.net[0].weight.grad.clone())
    assert torch.allclose(*gradients, atol=1e-5)
    assert counts[0].total <= counts[1].total / part
    trials = solution.stats.accepted_backward + solution.stats.rejected_backward
    assert counts[0].reads <= trials + 8  # one a step, and what chooses the first size


def test_interpolating_adjoint_needs_an_explicit_method():
    with pytest.raises(ValueError, match=r"explicit Runge-Kutta method, got Adams\('explicit_adams'\)"):
        solve(Field(), start(), TS, solver="explicit_adams", steps=4, gradient="interpolating_adjoint")


def test_parameters_that_are_formed_outside_the_field():
    """Non-leaf parameters, whose own graph serves every call."""
    w = torch.tensor([0.3, 0.8], dtype=F64, requires_grad=True)
    grads = []
    for gradient in (*ADJOINTS, "autograd"):
        rate = w.sin()
        ys = solve(
            lambda t, y, rate=rate: -rate * y,
            torch.ones(2, dtype=F64),
            TS,
            params=(rate,),
            gradient=gradient,
            rtol=1e-9,
        ).ys
        grads.append(torch.autograd.grad(ys.sum(), w)[0])
    assert torch.allclose(grads[0], grads[2], rtol=1e-6)
    assert torch.allclose(grads[1], grads[2], rtol=1e-6)
