"""Frozen, half-frozen and full steps: measured orders on non-autonomous flows, exactness, the named blocks."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch
from torch import nn
from torch.autograd import gradcheck

from odenets.flows import (
    DeltaFlow,
    DiagonalFlow,
    Frozen,
    HighwayFlow,
    ResidualFlow,
    SemilinearFlow,
    SkewFlow,
    StreamFlow,
    frozen_step,
    full_step,
    half_frozen_step,
    resolve_scheme,
)
from odenets.flows.linear import (
    Along,
    Diagonal,
    RankOne,
    Skew,
    StreamMatrix,
    generator_basis,
    generator_from_rates,
    guarded_unit,
    sinkhorn,
)
from odenets.solvers import Adaptive, FixedStep, solve

F64 = torch.float64
SCHEMES = ("forward_euler", "backward_euler", "implicit_midpoint", "exponential", "radau_iia3", "rk2", "rk4")
EULERS = ("forward_euler", "backward_euler")


def weights(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


W, V, U = weights(4, 4, seed=1), weights(4, 3, seed=2), weights(4, 23, seed=3)
G4 = generator_basis(4, dtype=F64)


def with_time(x, t):
    t = t if isinstance(t, float) else t.reshape(-1, *[1] * (x.dim() - 1)) if t.dim() else t
    return x + 0.5 * (2 * torch.as_tensor(t, dtype=F64)).sin()


def tanh_branch(t, x):
    return torch.tanh(with_time(x, t) @ W / 2)


def rate(t, x):
    return 1 + 0.5 * torch.tanh(with_time(x, t))


def delta(normalise):
    def coefficients(t, x):
        c = with_time(x, t).mean(-1)
        k = torch.tanh(c @ W) + 0.1
        k = nn.functional.normalize(k, dim=-1) if normalise else 0.7 * k
        return k, c @ V, 1 + 0.5 * torch.sigmoid(c.sum(-1))

    return coefficients


def streams(t, x):
    c = torch.tanh(with_time(x, t).mean(-1))
    return generator_from_rates(0.1 * (c @ U).exp(), G4), torch.softmax(c @ W, -1), 1 + c


def skew(t, x):
    c = with_time(x, t)
    return torch.tanh(c[..., :, None] * W), torch.cos(c)


FLOWS = {  # flow, shape of the state
    "residual": (ResidualFlow(tanh_branch), (4,)),
    "diagonal": (DiagonalFlow(lambda t, x: (rate(t, x), tanh_branch(t, x))), (4,)),
    "highway": (HighwayFlow(rate, tanh_branch), (4,)),
    "delta": (DeltaFlow(delta(True)), (4, 3)),
    "delta_exact": (DeltaFlow(delta(False), "exact"), (4, 3)),
    "stream": (StreamFlow(streams, lambda t, u: torch.sin(with_time(u, t))), (4, 3)),
    "skew": (SkewFlow(skew, gamma=0.2), (4,)),
}
SHORT_KEYS = {"short_keys": (DeltaFlow(delta(False), "paper"), (4, 3))}
ALL = {**FLOWS, **SHORT_KEYS}
T = 1.0
_references: dict[str, torch.Tensor] = {}


def start(name):
    return weights(2, *ALL[name][1], seed=5)


def reference(name):
    """The state at T by scipy's DOP853 at tolerance 1e-13."""
    if name not in _references:
        flow, x0 = ALL[name][0], start(name)

        def f(t, y):
            return flow(float(t), torch.from_numpy(y).reshape(x0.shape)).numpy().ravel()

        y = scipy.integrate.solve_ivp(f, (0, T), x0.numpy().ravel(), method="DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
        _references[name] = torch.from_numpy(y).reshape(x0.shape)
    return _references[name]


def measured_order(name, step, counts=(40, 80)):
    errors = []
    for n in counts:
        x, h = start(name), T / n
        for i in range(n):
            x = step(ALL[name][0], i * h, x, h)
        errors.append(float((x - reference(name)).norm()))
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("flow", FLOWS)
def test_frozen_steps_have_order_one_for_every_scheme(flow, scheme):
    order = measured_order(flow, lambda f, t, x, h: frozen_step(f, scheme, t, x, h))
    assert order == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("flow", FLOWS)
def test_half_frozen_steps_have_order_two_unless_the_scheme_has_order_one(flow, scheme):
    order = measured_order(flow, lambda f, t, x, h: half_frozen_step(f, scheme, t, x, h))
    # without a linear part every scheme is the explicit midpoint rule
    expected = 1 if scheme in EULERS and flow != "residual" else 2
    assert order == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize(
    ("method", "order"), [("euler", 1), ("midpoint", 2), ("heun3", 3), ("rk4", 4), ("rk4_38", 4), ("dopri5", 5)]
)
@pytest.mark.parametrize("flow", FLOWS)
def test_full_steps_have_the_solvers_order(flow, method, order):
    measured = measured_order(flow, lambda f, t, x, h: full_step(f, method, t, x, h), counts=(32, 64))
    assert measured == pytest.approx(order, abs=0.4)


def test_the_papers_coefficient_keeps_order_one_but_costs_the_second_order_of_short_keys():
    frozen = measured_order("short_keys", lambda f, t, x, h: frozen_step(f, "exponential", t, x, h))
    half = measured_order("short_keys", lambda f, t, x, h: half_frozen_step(f, "exponential", t, x, h))
    assert frozen == pytest.approx(1, abs=0.1)
    assert half == pytest.approx(1, abs=0.1)


class Constant(SemilinearFlow):
    def __init__(self, linear, forcing):
        super().__init__()
        self.linear, self.b = linear, forcing

    def freeze(self, t, x):
        return Frozen(self.linear, self.b)


@pytest.mark.parametrize("step", [frozen_step, half_frozen_step])
def test_the_exponential_scheme_is_exact_for_constant_coefficients(step):
    x = weights(4, 3, seed=7)
    k, v = nn.functional.normalize(weights(4, seed=8), dim=0), weights(3, seed=9)
    cases = [
        (Constant(StreamMatrix(W), V), x, W, V),
        (Constant(RankOne(k), Along(v)), x, -k[:, None] * k, k[:, None] * v),
        (Constant(RankOne(2 * k, "exact"), V), x, -4 * k[:, None] * k, V),
        (Constant(Diagonal(W[0]), V[:, 0]), x[:, 0], torch.diag(-W[0]), V[:, 0]),
        (Constant(Skew(W, 0.1), V[:, 0]), x[:, 0], W - W.T - 0.1 * torch.eye(4, dtype=F64), V[:, 0]),
    ]
    h = 1.7
    for flow, x0, a, b in cases:
        columns = x0.reshape(4, -1)
        c = columns.shape[1]
        augmented = np.zeros((4 + c, 4 + c))  # x' = A x + b u, u' = 0
        augmented[:4, :4], augmented[:4, 4:] = a, b.reshape(4, -1)
        e = torch.from_numpy(scipy.linalg.expm(h * augmented))
        expected = (e[:4, :4] @ columns + e[:4, 4:]).reshape(x0.shape)
        torch.testing.assert_close(step(flow, "exponential", 0.0, x0, h), expected, rtol=1e-12, atol=1e-12)


# A frozen forward Euler step is the block


def test_residual_block():
    flow, x = FLOWS["residual"][0], weights(5, 4)
    for scheme in SCHEMES:
        torch.testing.assert_close(frozen_step(flow, scheme, 0.3, x, 0.25), x + 0.25 * tanh_branch(0.3, x))


def test_highway_layer():
    flow, x, h = FLOWS["highway"][0], weights(5, 4), 0.4
    tau, target = rate(0.3, x), tanh_branch(0.3, x)
    for scheme, gate in (
        ("forward_euler", h * tau),
        ("backward_euler", h * tau / (1 + h * tau)),
        ("exponential", 1 - torch.exp(-h * tau)),
    ):
        torch.testing.assert_close(frozen_step(flow, scheme, 0.3, x, h), (1 - gate) * x + gate * target)


def test_deep_delta_learning():
    """X + beta k (v^T - k^T X), beta = 2 sigmoid(z): forward Euler with h = beta, implicit midpoint with h = 2 e^z."""
    k, v, x = guarded_unit(weights(5, 4, seed=1)), weights(5, 3, seed=2), weights(5, 4, 3, seed=3)
    z = weights(5, seed=4)
    beta = 2 * torch.sigmoid(z)
    error = v[:, None, :] - torch.einsum("bd,bdv->bv", k, x)[:, None, :]
    expected = x + beta[:, None, None] * k[:, :, None] * error
    flow = DeltaFlow(lambda t, x: (k, v))
    torch.testing.assert_close(frozen_step(flow, "forward_euler", 0.0, x, beta), expected)
    torch.testing.assert_close(frozen_step(flow, "implicit_midpoint", 0.0, x, 2 * z.exp()), expected)
    rated = DeltaFlow(lambda t, x: (k, v, beta))
    torch.testing.assert_close(frozen_step(rated, "forward_euler", 0.0, x, 1.0), expected)


def test_hyper_connections_and_their_manifold_constrained_form():
    x, q, p = weights(5, 4, 3, seed=1), torch.sigmoid(weights(5, 4, seed=2)), 2 * torch.sigmoid(weights(5, 4, seed=3))
    eye = torch.eye(4, dtype=F64)
    read = torch.einsum("bn,bnc->bc", q, x)
    for h_res, constrained in ((weights(5, 4, 4, seed=4), False), (sinkhorn(weights(5, 4, 4, seed=4)), True)):
        flow = StreamFlow(lambda t, x, h=h_res: (h - eye, q, p), lambda t, u: torch.tanh(u), generator=constrained)
        expected = h_res @ x + p[:, :, None] * torch.tanh(read)[:, None, :]
        torch.testing.assert_close(frozen_step(flow, "forward_euler", 0.0, x, 1.0), expected)


# Times, step sizes, gradients


@pytest.mark.parametrize("name", FLOWS)
def test_times_and_steps_per_sample_equal_a_loop(name):
    flow, x = FLOWS[name][0], start(name)
    t, h = torch.tensor([0.1, 0.6], dtype=F64), torch.tensor([0.2, 0.05], dtype=F64)
    for step, method in ((frozen_step, "exponential"), (half_frozen_step, "rk2"), (full_step, "rk4")):
        together = step(flow, method, t, x, h)
        for i in range(2):
            one = step(flow, method, float(t[i]), x[i : i + 1], float(h[i]))
            torch.testing.assert_close(together[i : i + 1], one, rtol=1e-13, atol=1e-13)


def test_a_full_step_is_one_step_of_the_solver():
    flow, x = FLOWS["delta"][0], start("delta")
    expected = solve(flow, x, (0.2, 0.5), solver=FixedStep("rk4", steps=1)).ys[-1]
    for t, h in ((0.2, 0.3), (torch.tensor(0.2, dtype=F64), 0.3), (0.2, torch.tensor(0.3, dtype=F64))):
        torch.testing.assert_close(full_step(flow, "rk4", t, x, h), expected, rtol=1e-13, atol=1e-13)
    five = solve(flow, x, (0.2, 0.5), solver=FixedStep("rk4", steps=5)).ys[-1]
    torch.testing.assert_close(full_step(flow, FixedStep("rk4", steps=5), 0.2, x, 0.3), five, rtol=1e-13, atol=1e-13)
    tight = full_step(flow, Adaptive("dopri5", rtol=1e-10, atol=1e-10), 0.2, x, 0.3)
    torch.testing.assert_close(tight, five, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FLOWS)
def test_gradients_through_state_time_and_step(name):
    flow = FLOWS[name][0]
    x = start(name)[:1].requires_grad_()
    t, h = (torch.tensor(v, dtype=F64, requires_grad=True) for v in (0.2, 0.3))
    for step, method in ((half_frozen_step, "backward_euler"), (frozen_step, "exponential"), (full_step, "midpoint")):
        assert gradcheck(lambda t, x, h, step=step, m=method: step(flow, m, t, x, h), (t, x, h))


def test_networks_of_a_flow_are_its_parameters_and_a_solver_integrates_it():
    class Rate(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, t, x):
            return nn.functional.softplus(self.linear(x))

    flow = HighwayFlow(Rate(), Rate())
    assert len(list(flow.parameters())) == 4
    x = torch.randn(3, 4)
    y = solve(flow, x, (0.0, 1.0), solver="tsit5", gradient="adjoint").ys[-1]
    y.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in flow.parameters())
    torch.testing.assert_close(flow(0.0, x), flow.rate(0.0, x) * (flow.target(0.0, x) - x))


@pytest.mark.parametrize("name", FLOWS)
def test_steps_compile_without_a_graph_break(name):
    flow, x = FLOWS[name][0], start(name)
    t, h = torch.tensor(0.1, dtype=F64), torch.tensor(0.2, dtype=F64)
    for scheme in (resolve_scheme("exponential"), resolve_scheme("radau_iia3")):

        def two(t, x, h, scheme=scheme):
            return half_frozen_step(flow, scheme, t, frozen_step(flow, scheme, t, x, 0.1), h)

        compiled = torch.compile(two, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(t, x, h), two(t, x, h))
    torch._dynamo.reset()


def test_wrong_steps_are_refused():
    flow, x = FLOWS["delta"][0], start("delta")
    with pytest.raises(ValueError, match="make gates per token a rate of the flow"):
        half_frozen_step(flow, "rk2", 0.0, x, torch.zeros(2, 1))
    with pytest.raises(ValueError, match="has one clock"):
        full_step(flow, Adaptive("dopri5"), 0.0, x, torch.zeros(2))
    with pytest.raises(ValueError, match="rk4"):
        full_step(flow, "rk5", 0.0, x, 0.1)
