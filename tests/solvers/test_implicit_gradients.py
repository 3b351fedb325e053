"""Gradients of implicit steps: finite differences, explicit steps, closed forms; second derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from odenets import odeint, odeint_adjoint, solve
from odenets.solvers import Adaptive, FixedPoint, FixedStep, InputError, Newton, NewtonKrylov

from .stiff import robertson

F64 = torch.float64
Y0 = torch.tensor([[0.3, -0.8], [0.5, 0.1]], dtype=F64)
W = torch.tensor([[-1.0, 0.7], [0.2, -0.5]], dtype=F64)
TS = torch.tensor([0.1, 0.9], dtype=F64)


def end(solver):
    """The state at the end as a function of start, parameters and times; the field depends on time."""

    def run(y0, w, ts):
        field = lambda t, y: torch.tanh(y @ w.T) + torch.cos(2 * t)[..., None] * y  # noqa: E731
        return solve(field, y0, ts, solver=solver).ys[-1]

    return run


def inputs():
    return tuple(x.clone().requires_grad_(True) for x in (Y0, W, TS))


def two_steps(method, **settings):
    """An adaptive method whose steps are 0.5 and what is left: gradients take the step sizes for constants, and finite
    differences of a solve that chooses them differ from that by the order of its error (6e-4 for kvaerno3 at 1e-2).
    """
    exact = Newton(kappa=1e-10, max_iterations=60)
    return Adaptive(
        method, rtol=1e-2, atol=1e-2, first_step=0.5, min_step=0.5, max_step=0.5, nonlinear=exact, **settings
    )


CASES = [
    FixedStep("implicit_euler", steps=2),
    FixedStep("radauIIA5", steps=1),
    FixedStep("trbdf2", steps=1),
    FixedStep("kvaerno5", steps=1),
    FixedStep("gl4", steps=1, nonlinear=NewtonKrylov(dense_limit=1)),
    FixedStep("trapezoid", steps=1, nonlinear=FixedPoint(dense_limit=1)),
    two_steps("radauIIA5"),
    two_steps("kvaerno3", per_sample=True),
]


@pytest.mark.parametrize("solver", CASES, ids=lambda s: f"{type(s).__name__}-{s.method}")
def test_gradcheck_for_start_parameters_and_times(solver):
    assert gradcheck(end(solver), inputs(), eps=1e-6, atol=1e-8, rtol=1e-7, check_undefined_grad=False)


def test_second_derivatives_on_request():
    solver = FixedStep("trbdf2", steps=1, nonlinear=Newton(twice_differentiable=True))
    assert gradgradcheck(end(solver), inputs(), eps=1e-6, atol=1e-8, rtol=1e-6, check_undefined_grad=False)


def test_second_derivatives_are_refused_otherwise():
    y0, w, ts = inputs()
    (first,) = torch.autograd.grad(end(FixedStep("gl4", steps=1))(y0, w, ts).sum(), y0, create_graph=True)
    with pytest.raises(InputError, match="twice_differentiable"):
        first.sum().backward()


def test_gradient_of_a_linear_step_is_the_derivative_of_its_stability_function():
    """d/da of (1 - h a)^{-n} y0 is n h (1 - h a)^{-n-1} y0, however stiff."""
    a = torch.tensor(-1e4, dtype=F64, requires_grad=True)
    y = solve(lambda t, y: a * y, torch.ones(1, dtype=F64), (0.0, 1e-3), solver="implicit_euler", steps=5).ys[-1]
    y.sum().backward()
    h = 2e-4
    assert float(a.grad) == pytest.approx(5 * h * (1 + 1e4 * h) ** -6, rel=1e-10)


def test_gradient_of_a_coupled_batch_that_was_taken_for_separate_systems():
    """A coupling that the first step's Jacobian does not show (its coefficient is zero then) does not spoil gradients."""
    y0 = torch.tensor([[0.3], [0.6], [-0.2]], dtype=F64)

    def run(y0):
        field = lambda t, y: -y + 0.3 * torch.relu(t - 0.4) * torch.sin(y.sum())  # noqa: E731
        return solve(field, y0, (0.0, 1.0), solver=FixedStep("implicit_midpoint", steps=3)).ys[-1]

    assert gradcheck(run, (y0.requires_grad_(True),), eps=1e-6, atol=1e-7)


def test_stiff_gradient_against_autograd_through_tiny_explicit_steps():
    rate = torch.tensor(1.3, dtype=F64)
    y0 = torch.tensor([1.0, 0, 0], dtype=F64)
    grads = []
    for settings in ({"solver": "radauIIA5", "rtol": 1e-8, "atol": 1e-12}, {"solver": "rk4", "steps": 250}):
        r, y = rate.clone().requires_grad_(True), y0.clone().requires_grad_(True)
        ys = solve(robertson, y, (0.0, 0.1), args=(r,), **settings).ys[-1]
        (ys / torch.tensor([1.0, 3e-5, 1e-2], dtype=F64)).sum().backward()
        assert r.grad is not None and y.grad is not None
        grads.append(torch.cat([r.grad[None], y.grad]))
    assert torch.allclose(grads[0], grads[1], rtol=1e-5)


def test_memory_does_not_hold_the_iterations():
    """The graph of a step has as many evaluations of the field as stages, however many the iteration took."""
    w = torch.ones(1, dtype=F64, requires_grad=True)
    recorded = []

    def field(t, y):
        if torch.is_grad_enabled():
            recorded.append(1)
        return -w * torch.sinh(5 * y)

    solution = solve(field, torch.full((1,), 2.0, dtype=F64), (0.0, 1.0), solver="implicit_euler", steps=4)
    assert solution.stats.iterations > 12
    assert len(recorded) <= 4 + 1
    assert math.isfinite(float(solution.ys[-1].detach()))


# The continuous adjoint, walking back with implicit methods


class StiffLinear(nn.Module):
    """Eigenvalues near -1000 and -2."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([[-1000.0, 10.0], [0.5, -2.0]], dtype=F64))

    def forward(self, t, y):
        return y @ self.a.T + torch.sin(t)


class StiffNet(nn.Module):
    """A small network pulled onto sin t with rates up to 2000."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.w, self.v = (nn.Parameter(torch.randn(shape, dtype=F64)) for shape in ((2, 8), (8, 2)))
        self.rate = nn.Parameter(torch.tensor([1.0, 2000.0], dtype=F64))

    def forward(self, t, y):
        return torch.tanh(y @ self.w) @ self.v * torch.cos(t) - self.rate * (y - torch.sin(t)) - y**3


class Squashed(torch.autograd.Function):
    """tanh, unknown to torch.func."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, g):
        return g / torch.cosh(ctx.saved_tensors[0]) ** 2


class Opaque(StiffLinear):
    def forward(self, t, y):
        return Squashed.apply(y @ self.a.T / 100) * 100 + torch.sin(t)


def gradients_of(field, run):
    y0 = torch.tensor([[1.0, -0.5], [0.3, 0.8], [-0.6, 0.1]], dtype=F64, requires_grad=True)
    ts = torch.tensor([0.0, 2e-3, 5e-3], dtype=F64, requires_grad=True)
    field.zero_grad()
    (run(field, y0, ts) ** 2).sum().backward()
    return [y0.grad, ts.grad, *(p.grad.clone() for p in field.parameters())]


@pytest.mark.parametrize(
    ("method", "field"), [("radauIIA5", StiffLinear()), ("kvaerno5", StiffNet()), ("kvaerno5", Opaque())],
    ids=["radauIIA5-linear", "kvaerno5-network", "kvaerno5-unknown to torch.func"],
)  # fmt: skip
def test_adjoint_of_stiff_fields_agrees_with_autograd_through_the_steps(method, field):
    """Over 5 to 10 of the fastest time scales: back along y itself errors grow by exp(10)."""
    settings = {"solver": method, "rtol": 1e-7, "atol": 1e-9}
    exact = gradients_of(field, lambda *args: solve(*args, **settings).ys)
    mine = gradients_of(field, lambda *args: solve(*args, gradient="adjoint", **settings).ys)
    for a, b in zip(mine, exact):
        assert (a - b).abs().max() < 1e-4 * b.abs().max()


@pytest.mark.parametrize("method", ["implicit_euler", "radauIIA3", "sdirk2", "gl6"])
def test_the_drop_in_adjoint_walks_back_with_implicit_methods(method):
    """Both converge to the same gradient with the method's order; the step is 1/10 of the fastest time scale."""
    field, options = StiffNet(), {"step_size": 5e-5}
    exact = gradients_of(field, lambda f, y0, ts: odeint(f, y0, ts, method="dopri8", rtol=1e-10, atol=1e-12))
    mine = gradients_of(field, lambda f, y0, ts: odeint_adjoint(f, y0, ts, method=method, options=options))
    tolerance = {"implicit_euler": 0.3, "radauIIA3": 1e-3, "sdirk2": 2e-2, "gl6": 1e-7}[method]
    for a, b in zip(mine, exact):
        assert (a - b).abs().max() < tolerance * b.abs().max()


def test_jacobians_of_the_adjoint_are_those_of_one_sample_however_many_parameters():
    """Three samples of two states, 36 parameters: matrices are 4 by 4, one per sample."""
    from odenets.solvers.implicit.linear import Linearisation

    field, seen = StiffNet(), []
    matrix = Linearisation.matrix

    def spy(self, t, y, batch_dims=0):
        found = matrix(self, t, y, batch_dims)
        seen.append(found.shape)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Linearisation, "matrix", spy)
        gradients_of(field, lambda f, y0, ts: odeint_adjoint(f, y0, ts, method="trbdf2"))
    assert (3, 4, 4) in seen and set(seen) <= {(3, 2, 2), (3, 4, 4)}
