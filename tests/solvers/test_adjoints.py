"""Continuous adjoints: what they cost, where they are accurate, and that their quadrature is the method's own."""

from __future__ import annotations

import functools

import pytest
import torch
import torchdiffeq
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from odenets import odeint_adjoint, solve
from odenets.solvers import Adaptive, FixedStep, SolveError, SplitField
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


class Fast(nn.Module):
    """Two components, one of which follows a moving target at `rate`, from a start that is not on it."""

    def __init__(self, rate):
        super().__init__()
        self.rate, self.w = nn.Parameter(torch.tensor(rate, dtype=F64)), nn.Parameter(torch.tensor(0.7, dtype=F64))

    def stiff(self, t, y):
        a, b = y.unbind(-1)
        return torch.stack([-self.rate * (a - torch.cos(self.w * t) * b * b), -0.5 * b], -1)

    def rest(self, t, y):
        a, _ = y.unbind(-1)
        return torch.stack([-torch.sin(t) * torch.ones_like(a), 0.1 * self.w * a * a], -1)

    def forward(self, t, y):
        return self.stiff(t, y) + self.rest(t, y)


def gradients_of_fast(rate, solver, gradient):
    """With respect to y0 (two samples), the logarithm of the rate, and w; and the cost."""
    field = Fast(rate)
    y0 = torch.tensor([[1.5, 0.3], [0.4, 0.8]], dtype=F64, requires_grad=True)
    split = SplitField(field.rest, field.stiff) if str(getattr(solver, "method", "")).startswith("kencarp") else field
    params = None if gradient == "autograd" else (field.rate, field.w)
    solution = solve(split, y0, (0.0, 0.5, 1.0), solver=solver, gradient=gradient, params=params)
    loss = (solution.ys[1:].square() * torch.tensor([1.0, 0.5], dtype=F64)).sum()
    by_y0, by_rate, by_w = torch.autograd.grad(loss, (y0, field.rate, field.w))
    return torch.cat([by_y0.flatten(), by_rate[None] * rate, by_w[None]]), solution.stats


@functools.cache
def exact_gradients_of_fast(rate):
    return gradients_of_fast(rate, Adaptive("radauIIA5", rtol=1e-7, atol=1e-9), "autograd")[0]


STIFF_METHODS = (
    "kvaerno5", "radauIIA5", "rodas5p", "bdf", "kencarp4", "auto_tsit5_rodas5p",
)  # fmt: skip


@pytest.mark.parametrize("method", STIFF_METHODS)
def test_the_interpolating_adjoint_of_stiff_methods(method):
    """Contraction by e^-2000 over the interval; the backward steps are about as many as the forward ones."""
    found, stats = gradients_of_fast(2000.0, Adaptive(method, rtol=1e-5, atol=1e-7), "interpolating_adjoint")
    exact = exact_gradients_of_fast(2000.0)
    assert (found - exact).norm() < 1e-4 * exact.norm()
    assert stats.accepted_backward < 200 and stats.nfe_backward > stats.accepted_backward


def test_the_interpolating_adjoint_of_a_stiff_method_takes_trees_and_fields_that_torch_func_does_not_know():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return 2 * x * grad

    w = torch.tensor(3.0, dtype=F64, requires_grad=True)
    y0 = (torch.tensor([0.5], dtype=F64), torch.tensor([1.0, 2.0], dtype=F64))

    def field(t, y):
        return torch.sin(t) - w * Square.apply(y[0]), -50 * w * (y[1] - y[0])

    gradients = []
    for gradient in ("autograd", "interpolating_adjoint"):
        ys = solve(field, y0, (0.0, 1.0), solver="kvaerno5", gradient=gradient, params=(w,), rtol=1e-6, atol=1e-8).ys
        gradients.append(torch.autograd.grad(ys[0][-1].sum() + ys[1][-1, 0], w)[0])
    assert torch.allclose(*gradients, rtol=1e-5)


@pytest.mark.parametrize("rate", [200.0, 2000.0, 20000.0])
@pytest.mark.parametrize("method", ["trbdf2", "sdirk2", "implicit_euler", "radauIIA3"])
def test_an_adjoint_that_loses_the_path_is_an_error_and_not_a_wrong_gradient(method, rate):
    """Steps of 1/40: backward, these methods damp (or, near a pole of R, blow up) what should grow by e^(rate/40)."""
    with pytest.raises(SolveError, match=r"interpolating_adjoint.*checkpoint"):
        gradients_of_fast(rate, FixedStep(method, steps=40), "adjoint")


def test_the_drop_in_adjoint_warns_of_a_lost_path():
    field, y0 = Fast(2000.0), torch.tensor([1.5, 0.3], dtype=F64)
    ys = odeint_adjoint(field, y0, torch.tensor([0.0, 1.0]), method="trbdf2", options={"step_size": 0.025})
    with pytest.warns(UserWarning, match="lost the forward solve's path"):
        ys[-1].sum().backward()


@pytest.mark.parametrize("method", ["rodas5p", "bdf", "kencarp4", "auto_tsit5_rodas5p"])
def test_methods_that_cannot_walk_back_name_those_gradients_that_can(method):
    with pytest.raises(ValueError, match=r"'interpolating_adjoint'.*'autograd' or 'checkpoint'"):
        gradients_of_fast(20.0, Adaptive(method), "adjoint")


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


def test_interpolating_adjoint_says_which_methods_it_takes():
    with pytest.raises(ValueError, match=r"explicit Runge-Kutta method, or .*, got Adams\('explicit_adams'\)"):
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
