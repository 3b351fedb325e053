"""Blocks that are other schemes of one flow: the papers' equations, their limits, and their measured orders."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from odenets.blocks import (
    Antisymmetric,
    Block,
    ImplicitEuler,
    LinearMultistep,
    Macaron,
    PolyNet,
    Residual,
    RungeKuttaBlock,
    Strang,
)
from odenets.fields import MLP
from odenets.models import FlowStack
from tests.blocks.cases import DIM, assert_same, made
from tests.blocks.test_reversible import fields, parameters, sample


class Driven(nn.Module):
    """A smooth field that depends on time: tanh(x W^T) + sin(3 t) x / 2 + cos(2 t)."""

    def __init__(self, seed: int, scale: float = 1.0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(scale * torch.randn(3, 3, dtype=torch.float64, generator=g))

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        t = torch.as_tensor(t, dtype=x.dtype)
        return torch.tanh(x @ self.w.T) + torch.sin(3 * t) * x / 2 + torch.cos(2 * t)


def solution(field, x: Tensor, t: float, n: int = 400) -> Tensor:
    """The classic fourth-order method with n steps, written out."""
    h = t / n
    with torch.no_grad():
        for i in range(n):
            s = i * h
            k1 = field(s, x)
            k2 = field(s + h / 2, x + h / 2 * k1)
            k3 = field(s + h / 2, x + h / 2 * k2)
            k4 = field(s + h, x + h * k3)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def measured_order(block: Block, field, n: int = 16, t: float = 1.0) -> float:
    x = torch.tensor([[0.5, -1.0, 0.2], [1.5, 0.3, -0.7]], dtype=torch.float64)
    exact = solution(field, x, t)
    stack = FlowStack(lambda: block, T=t, N=n, tied=True)
    with torch.no_grad():
        coarse, fine = ((stack.refine(k)(x) - exact).norm().item() for k in (1, 2))
    return math.log2(coarse / fine)


F, G = Driven(0), Driven(1, 0.7)


def both(t, x):
    return F(t, x) + G(t, x)


@pytest.mark.parametrize(
    ("block", "field", "order"),
    [
        (RungeKuttaBlock(F, "euler"), F, 1),
        (RungeKuttaBlock(F, "heun2"), F, 2),
        (RungeKuttaBlock(F, "heun3"), F, 3),
        (RungeKuttaBlock(F, "rk4"), F, 4),
        (RungeKuttaBlock(F, "heun2", "learned").double(), F, 2),
        (RungeKuttaBlock(F, "heun2", "gated", 3).double(), F, 2),
        (Strang(F, G), both, 2),
        (Strang(F, G, "rk4"), both, 2),
        (Strang(F, G, "euler"), both, 1),
        (Macaron(F, G, G), both, 1),
        (ImplicitEuler(F, 8), F, 1),
        (ImplicitEuler(F, 5, "gradient", rate=1.0), F, 1),
        (LinearMultistep(F, -0.3).double(), lambda t, x: F(t, x) / 0.7, 1),
        (LinearMultistep(F, 0.4).double(), lambda t, x: F(t, x) / 1.4, 1),
        (PolyNet(F, G, "2-way"), both, 1),
    ],
    ids=lambda value: repr(value).split("\n")[0] if isinstance(value, nn.Module) else None,
)
def test_measured_order_on_a_field_that_depends_on_time(block: Block, field, order: int):
    assert measured_order(block, field, n=64 if order == 1 else 24) == pytest.approx(order, abs=0.12)


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("midpoint", 2)])
def test_antisymmetric_measured_order(scheme: str, order: int):
    torch.manual_seed(0)
    block = Antisymmetric(3, 0.1, G, scheme).double()
    assert measured_order(block, block.field, n=64) == pytest.approx(order, abs=0.12)


def test_multistep_is_lus_recursion():
    branches = fields(5)
    queue = list(branches)
    stack = FlowStack(lambda: LinearMultistep(queue.pop(0)).double(), T=5.0, N=5)
    ks: list[Any] = [block.k for block in stack.blocks]
    assert all(-0.1 <= k <= 0 for k in ks)
    x = sample()
    states = [x, x + branches[0](0.0, x)]  # the first step has no past
    for n in range(1, 5):
        states.append((1 - ks[n]) * states[n] + ks[n] * states[n - 1] + branches[n](float(n), states[n]))
    assert_same(stack(x), states[-1], [x, *ks, *parameters(branches)])


def residual_stack(branches: list[nn.Module], h: float) -> FlowStack:
    queue = list(branches)
    return FlowStack(lambda: Residual(queue.pop(0)), T=h * len(branches), N=len(branches))


@pytest.mark.parametrize("h", [1.0, 0.3])
@pytest.mark.parametrize(
    "make",
    [
        lambda f: LinearMultistep(f, 0.0).double(),
        lambda f: RungeKuttaBlock(f, "euler"),
        lambda f: Macaron(f, zero(), zero()),
        lambda f: Strang(f, zero(), "euler"),
        lambda f: PolyNet(f, zero(), "mpoly-2"),
        lambda f: PolyNet(f, zero(), "2-way"),
    ],
    ids=["multistep k=0", "rk order 1", "macaron without mlp", "strang without mlp", "mpoly F(F)=0", "2-way G=0"],
)
def test_limit_is_the_residual_stack(make, h: float):
    branches = fields(3)
    queue = list(branches)
    stack = FlowStack(lambda: make(queue.pop(0)), T=3 * h, N=3)
    x = sample()
    assert_same(stack(x), residual_stack(branches, h)(x), [x, *parameters(branches)])


def zero() -> nn.Module:
    return MLP(DIM, 4, out_scale=0.0).double()


def test_implicit_euler_without_iterations_is_the_residual_block():
    torch.manual_seed(0)
    f = MLP(DIM, 12).double()
    x = sample()
    assert_same(ImplicitEuler(f, 0)(0.0, x, 0.3), x + 0.3 * f(0.0, x), [x, *f.parameters()])


def test_macaron_is_its_papers_layer():
    a, m1, m2 = fields(3)
    x = sample()
    y = x + 0.5 * m1(0.0, x)
    y = y + a(0.0, y)
    y = y + 0.5 * m2(0.5, y)
    assert_same(Macaron(a, m1, m2)(0.0, x, 1.0), y, [x, *parameters([a, m1, m2])])


def test_strang_with_midpoint_written_out():
    a, m = fields(2)
    x, t, h = sample(), 0.2, 0.4
    y = x + h / 2 * m(t + h / 4, x + h / 4 * m(t, x))
    y = y + h * a(t + h / 2, y + h / 2 * a(t, y))
    y = y + h / 2 * m(t + 3 * h / 4, y + h / 4 * m(t + h / 2, y))
    assert_same(Strang(a, m)(t, x, h), y, [x, *parameters([a, m])])


def test_rk2_and_rk4_are_the_ode_transformers_layers():
    (f,) = fields(1)
    x, t, h = sample(), 0.2, 1.0
    f1 = f(t, x)
    f2 = f(t + h, x + f1)
    assert_same(RungeKuttaBlock(f, "heun2")(t, x, h), x + (f1 + f2) / 2, [x, *f.parameters()])
    f2 = f(t + h / 2, x + f1 / 2)
    f3 = f(t + h / 2, x + f2 / 2)
    f4 = f(t + h, x + f3)
    expected = x + (f1 + 2 * f2 + 2 * f3 + f4) / 6
    assert_same(RungeKuttaBlock(f, "rk4")(t, x, h), expected, [x, *f.parameters()])
    learned = RungeKuttaBlock(f, "rk4", "learned").double()
    learned.b.data = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    b1, b2, b3, b4 = learned.b
    assert_same(learned(t, x, h), x + b1 * f1 + b2 * f2 + b3 * f3 + b4 * f4, [x, *learned.parameters()])


@pytest.mark.parametrize("h", [1.0, 0.3])
def test_the_gate_weighs_the_two_stages_per_position(h: float):
    (f,) = fields(1)
    block = RungeKuttaBlock(f, "heun2", "gated", DIM)
    nn.init.normal_(block.gate.weight)
    block = block.double()
    x = sample()
    f1 = f(0.0, x)
    f2 = f(h, x + h * f1)
    score = torch.einsum("j,bj->b", block.gate.weight[0], torch.cat([f1, f2], -1)) + block.gate.bias
    g = (1 / (1 + torch.exp(-score)))[:, None]
    assert_same(block(0.0, x, h), x + h * g * f1 + h * (1 - g) * f2, [x, *block.parameters()])
    nn.init.zeros_(block.gate.weight)
    torch.testing.assert_close(block(0.0, x, h), RungeKuttaBlock(f, "heun2")(0.0, x, h), rtol=1e-12, atol=1e-12)


def test_polynet_is_zhangs_compositions():
    f, g = fields(2)
    x = sample()
    wrt = [x, *parameters([f, g])]
    assert_same(PolyNet(f)(0.0, x, 1.0), x + f(0.0, x) + f(0.0, f(0.0, x)), wrt)
    assert_same(PolyNet(f, g, "mpoly-2")(0.0, x, 1.0), x + f(0.0, x) + g(0.0, f(0.0, x)), wrt)
    assert_same(PolyNet(f, g, "2-way")(0.0, x, 1.0), x + f(0.0, x) + g(0.0, x), wrt)


def linear_field(seed: int = 0) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    layer = nn.Linear(3, 3, bias=False).double()

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, t, x):
            return torch.as_tensor(1 + t, dtype=x.dtype) * self.layer(x)

    return Linear(), layer.weight


def test_poly_2_is_backward_euler_up_to_the_third_power_of_h():
    f, w = linear_field()
    x = torch.randn(4, 3, dtype=torch.float64)
    errors = []
    for h in (0.02, 0.01):
        exact = torch.linalg.solve(torch.eye(3) - h * w, x.T).T
        errors.append((PolyNet(f)(0.0, x, h) - exact).norm().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize(("solver", "iterations"), [("fixed_point", 60), ("gradient", 200)])
def test_implicit_euler_converges_to_the_solution_of_its_equation(solver: str, iterations: int):
    f, w = linear_field()
    x, t, h = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), 0.3, 0.5
    block = ImplicitEuler(f, iterations, solver)
    exact = torch.linalg.solve(torch.eye(3) - h * (1 + t + h) * w, x.T).T
    assert_same(block(t, x, h), exact, [x, w])
    assert block.defect(t, x, block(t, x, h), h).abs().max() < 1e-12


def test_each_fixed_point_iteration_gains_a_power_of_h():
    f = Driven(0)
    x = torch.randn(4, 3, dtype=torch.float64)
    for k in range(3):
        errors = [
            (ImplicitEuler(f, k)(0.0, x, h) - ImplicitEuler(f, 60)(0.0, x, h)).norm().item() for h in (0.02, 0.01)
        ]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(k + 2, abs=0.15)


def test_gradient_iterations_are_descent_on_the_residual():
    torch.manual_seed(0)
    f = MLP(DIM, 12).double()
    x, h, rate = sample(), 0.8, 0.3
    z = x + h * f(0.0, x)
    for _ in range(2):
        r = z - x - h * f(0.0, z)
        (gradient,) = torch.autograd.grad(r.square().sum() / 2, z, create_graph=True)
        z = z - rate * gradient
    block = ImplicitEuler(f, 2, "gradient", rate)
    assert_same(block(0.0, x, h), z, [x, *f.parameters()])
    with torch.no_grad():
        torch.testing.assert_close(block(0.0, x, h), z, rtol=1e-12, atol=1e-12)


def test_gradient_iterations_shrink_the_residual_where_the_fixed_point_diverges():
    f, _ = linear_field()
    x, h = torch.randn(4, 3, dtype=torch.float64), 2.0
    diverged = ImplicitEuler(f, 30)
    descent = ImplicitEuler(f, 30, "gradient", rate=0.02)
    start = descent.defect(0.0, x, x, h).norm()
    assert diverged.defect(0.0, x, diverged(0.0, x, h), h).norm() > 100 * start
    assert descent.defect(0.0, x, descent(0.0, x, h), h).norm() < start


@pytest.mark.parametrize("scheme", ["euler", "midpoint"])
def test_antisymmetric_is_changs_equation(scheme: str):
    torch.manual_seed(0)
    (u,) = fields(1)
    block = made(lambda: Antisymmetric(DIM, 0.2, u, scheme, 3))()
    assert isinstance(block, Antisymmetric)
    w, b, x, h = block.weight, block.bias, sample(), 0.5

    def f(t, x):
        z = torch.einsum("ij,bj->bi", w, x) - torch.einsum("ji,bj->bi", w, x) - 0.2 * x
        return torch.tanh(z + b + u(t, x))

    y = x
    if scheme == "euler":
        y = x + h * f(0.1, x)
    else:
        for _ in range(3):
            y = x + h * f(0.1 + h / 2, (x + y) / 2)
    assert_same(block(0.1, x, h), y, [x, w, b, *u.parameters()])


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_antisymmetric_eigenvalues_lie_between_minus_gamma_and_zero(gamma: float):
    block = made(lambda: Antisymmetric(DIM, gamma))()
    for seed in range(5):
        x = torch.randn(DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        eigenvalues = torch.linalg.eigvals(torch.func.jacrev(lambda x: block.field(0.0, x))(x))
        assert eigenvalues.real.max() <= 1e-12
        assert eigenvalues.real.min() >= -gamma - 1e-12
        assert eigenvalues.imag.abs().max() > 0.1


def test_antisymmetric_midpoint_holds_a_norm_that_euler_lets_grow():
    norms = {}
    for scheme in ("euler", "midpoint"):
        torch.manual_seed(0)
        block = Antisymmetric(DIM, 0.0, scheme=scheme, iterations=30, scale=0.3).double()
        x = 0.01 * sample()  # where tanh is nearly linear the flow is a rotation
        stack = FlowStack(lambda block=block: block, T=60.0, N=120, tied=True)
        norms[scheme] = (stack(x).norm() / x.norm()).item()
    assert norms["midpoint"] == pytest.approx(1, abs=0.01)
    assert norms["euler"] > 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RungeKuttaBlock(MLP(2), "rk5"), "method= takes one of"),
        (lambda: RungeKuttaBlock(MLP(2), weights="free"), "weights= takes one of"),
        (lambda: RungeKuttaBlock(MLP(2), "rk4", "gated", 2), "method of two stages"),
        (lambda: PolyNet(MLP(2), variant="poly-9"), "variant= takes one of"),
        (lambda: PolyNet(MLP(2), MLP(2)), "got branch2"),
        (lambda: ImplicitEuler(MLP(2), -1), "iterations >= 0, got -1"),
        (lambda: ImplicitEuler(MLP(2), solver="newton"), "solver= takes one of"),
        (lambda: Antisymmetric(2, -1.0), "gamma >= 0, got -1"),
        (lambda: Antisymmetric(2, iterations=0), "iterations >= 1, got 0"),
        (lambda: Macaron(MLP(2), MLP(2)), "needs 3 branches, got 2"),
        (lambda: Strang(3), "module or a factory"),  # type: ignore[arg-type]
    ],
)
def test_wrong_input_is_an_error_that_says_what_came_and_what_is_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
