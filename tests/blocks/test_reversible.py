"""Blocks on coupled or extended states against their papers' equations, undone exactly, and true to their energy."""

import math

import pytest
import torch
from torch import nn

from odenets.blocks import Hamiltonian, Leapfrog, Momentum, Residual, RevNet
from odenets.fields import MLP
from odenets.models import FlowStack
from tests.blocks.cases import CASES, DIM, assert_same, made, tensors


def fields(count: int, dim: int = DIM) -> list[nn.Module]:
    torch.manual_seed(0)
    return [MLP(dim, 12, depth=1, time="concat").double() for _ in range(count)]


def sample(dim: int = DIM) -> torch.Tensor:
    return torch.randn(4, dim, dtype=torch.float64, requires_grad=True)


def parameters(modules) -> list[torch.Tensor]:
    return [p for m in modules for p in m.parameters()]


def test_momentum_is_the_papers_recursion():
    branches = fields(5)
    gamma, queue = 0.7, list(branches)
    stack = FlowStack(lambda: Momentum(queue.pop(0), gamma), T=5.0, N=5)
    x0 = x = sample()
    v = torch.zeros_like(x)
    for n, f in enumerate(branches):
        v = gamma * v + (1 - gamma) * f(float(n), x)
        x = x + v
    assert_same(stack(x0), x, [x0, *parameters(branches)])


@pytest.mark.parametrize("h", [1.0, 0.25])
def test_momentum_without_momentum_is_the_residual_block(h: float):
    branches = fields(3)
    a, b = list(branches), list(branches)
    x = sample()
    momentum = FlowStack(lambda: Momentum(a.pop(0), 0.0), T=3 * h, N=3)
    assert_same(momentum(x), FlowStack(lambda: Residual(b.pop(0)), T=3 * h, N=3)(x), [x, *parameters(branches)])


def test_momentum_converges_to_its_second_order_flow():
    (f,) = fields(1)
    rate = -math.log(0.8)
    x = sample().detach()
    exact, v = x, torch.zeros_like(x)
    h = 1 / 400

    def slope(t, x, v):
        return v, rate * (f(t, x) - v)

    for n in range(400):  # classic RK4 on the pair
        k1 = slope(n * h, exact, v)
        k2 = slope((n + 0.5) * h, exact + h / 2 * k1[0], v + h / 2 * k1[1])
        k3 = slope((n + 0.5) * h, exact + h / 2 * k2[0], v + h / 2 * k2[1])
        k4 = slope((n + 1) * h, exact + h * k3[0], v + h * k3[1])
        exact, v = (
            z + h / 6 * (a + 2 * b + 2 * c + d) for z, a, b, c, d in zip((exact, v), k1, k2, k3, k4, strict=True)
        )
    stack = FlowStack(lambda: Momentum(f, 0.8), T=1.0, N=8, tied=True)
    errors = [(stack.refine(k)(x) - exact).norm().item() for k in (4, 8)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("split", ["halves", "duplicate"])
def test_revnet_is_gomez_equation(split: str):
    dim = DIM // 2 if split == "halves" else DIM
    branches = fields(4, dim)
    queue = list(branches)
    stack = FlowStack(lambda: RevNet(queue.pop(0), queue.pop(0), split=split), T=2.0, N=2)
    x = sample()
    x1, x2 = (x[:, :dim], x[:, dim:]) if split == "halves" else (x, x)
    for n, (f, g) in enumerate([branches[:2], branches[2:]]):
        x1 = x1 + f(float(n), x2)
        x2 = x2 + g(float(n), x1)
    expected = torch.cat([x1, x2], -1) if split == "halves" else (x1 + x2) / 2
    assert_same(stack(x), expected, [x, *parameters(branches)])


def test_leapfrog_is_kick_drift_kick():
    f, g = fields(2)
    stack = FlowStack(lambda: Leapfrog(f, g), T=0.6, N=2, tied=True)
    x = sample()
    q = p = x
    for t in (0.0, 0.3):
        middle = p + 0.15 * g(t, q)
        q = q + 0.3 * f(t + 0.15, middle)
        p = middle + 0.15 * g(t + 0.3, q)
    assert_same(stack(x), (q + p) / 2, [x, *parameters([f, g])])


@pytest.mark.parametrize("scheme", ["symplectic_euler", "verlet"])
def test_hamiltonian_is_changs_network(scheme: str):
    torch.manual_seed(0)
    block = made(lambda: Hamiltonian(DIM, 5, scheme, "halves"))()
    x, h = sample(), 0.4
    y, z = x[:, : DIM // 2], x[:, DIM // 2 :]
    (k1, b1), (k2, b2) = ((f.linear.weight, f.linear.bias) for f in (block.field, block.field2))

    def force_y(z):
        return torch.einsum("ij,bi->bj", k1, torch.tanh(torch.einsum("ij,bj->bi", k1, z) + b1))

    def force_z(y):
        return -torch.einsum("ij,bi->bj", k2, torch.tanh(torch.einsum("ij,bj->bi", k2, y) + b2))

    for _ in range(3):
        if scheme == "verlet":
            z = z + h / 2 * force_z(y)
            y = y + h * force_y(z)
            z = z + h / 2 * force_z(y)
        else:
            y = y + h * force_y(z)
            z = z + h * force_z(y)
    stack = FlowStack(lambda: block, T=3 * h, N=3, tied=True)
    assert_same(stack(x), torch.cat([y, z], -1), [x, *block.parameters()])


@pytest.mark.parametrize(
    "name",
    ["momentum", "revnet", "revnet-halves", "leapfrog", "leapfrog-halves", "hamiltonian", "hamiltonian-euler"],
)
def test_steps_are_undone_to_rounding(name: str):
    torch.manual_seed(0)
    blocks = [made(CASES[name], seed)() for seed in range(8)]
    start = state = blocks[0].lift(torch.randn(2, 5, DIM, dtype=torch.float64))
    with torch.no_grad():
        for n, block in enumerate(blocks):
            state = block(n * 0.3, state, 0.3)
        moved = max((a - b).abs().max() for a, b in zip(tensors(state), tensors(start)))
        assert moved > 0.1
        for n, block in reversed(list(enumerate(blocks))):
            state = block.inverse(n * 0.3, state, 0.3)
    for a, b in zip(tensors(state), tensors(start), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def energy_error(scheme: str, h: float) -> float:
    torch.manual_seed(0)
    block = made(lambda: Hamiltonian(DIM, scheme=scheme, split="halves"))()
    state = block.lift(torch.randn(3, DIM, dtype=torch.float64))
    start, worst = block.energy(state), 0.0
    with torch.no_grad():
        for _ in range(round(100 / h)):
            state = block(0.0, state, h)
            worst = max(worst, (block.energy(state) - start).abs().max().item())
    return worst


@pytest.mark.parametrize(("scheme", "order"), [("verlet", 2), ("symplectic_euler", 1)])
def test_the_energy_error_stays_bounded_and_shrinks_at_the_schemes_order(scheme: str, order: int):
    coarse, fine = energy_error(scheme, 0.2), energy_error(scheme, 0.1)
    assert coarse < 0.4
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


def test_forward_euler_on_the_same_field_gains_energy_without_bound():
    torch.manual_seed(0)
    block = made(lambda: Hamiltonian(DIM, split="halves"))()
    q, p = block.lift(torch.randn(3, DIM, dtype=torch.float64))
    start = block.field.energy(p) + block.field2.energy(q)
    with torch.no_grad():
        for _ in range(500):
            q, p = q + 0.2 * block.field(0.0, p), p + 0.2 * block.field2(0.0, q)
    assert (block.field.energy(p) + block.field2.energy(q) - start).min() > 1.0


@pytest.mark.parametrize("scheme", ["verlet", "symplectic_euler"])
def test_hamiltonian_steps_are_symplectic(scheme: str):
    torch.manual_seed(0)
    block = made(lambda: Hamiltonian(DIM, scheme=scheme, split="halves"))()
    x = torch.randn(DIM, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda x: block.readout(block(0.0, block.lift(x), 0.7)))(x)
    n = DIM // 2
    omega = torch.zeros(DIM, DIM, dtype=torch.float64)
    omega[:n, n:], omega[n:, :n] = torch.eye(n), -torch.eye(n)
    torch.testing.assert_close(jacobian.T @ omega @ jacobian, omega, rtol=1e-12, atol=1e-12)


def test_the_force_is_the_gradient_of_the_energy():
    block = made(lambda: Hamiltonian(DIM, 5))()
    x = sample()
    for field, sign in ((block.field, 1), (block.field2, -1)):
        (gradient,) = torch.autograd.grad(field.energy(x).sum(), x)
        torch.testing.assert_close(sign * field(0.0, x), gradient, rtol=1e-12, atol=1e-12)
    far = 1000 * x.detach()  # log cosh without overflow
    assert block.field.energy(far).isfinite().all()


def test_images_are_halved_along_their_channels():
    f = nn.Conv2d(2, 2, 3, padding=1)

    class Branch(nn.Module):
        def forward(self, t, x):
            return f(x)

    block = RevNet(Branch, split="halves", axis=1)
    x = torch.randn(2, 4, 5, 5)
    first = x[:, :2] + f(x[:, 2:])
    expected = torch.cat([first, x[:, 2:] + f(first)], 1)
    torch.testing.assert_close(block.readout(block(0.0, block.lift(x), 1.0)), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Momentum(MLP(2), 1.0), "0 <= gamma < 1, got 1.0"),
        (lambda: Momentum(MLP(2), 0.0).inverse(0.0, (torch.ones(2), torch.ones(2)), 1.0), "take gamma > 0"),
        (lambda: RevNet(MLP(2)), "needs 2 branches, got 1"),
        (lambda: RevNet(MLP(2), MLP(2), norm=nn.RMSNorm(2)), "norm as a factory"),
        (lambda: RevNet(lambda: MLP(2), split="thirds"), "split= takes one of"),
        (lambda: RevNet(lambda: MLP(2), split="halves").lift(torch.ones(1, 3)), "even size"),
        (lambda: Hamiltonian(3, split="halves"), "even dim, got 3"),
        (lambda: Hamiltonian(4, scheme="euler"), "scheme= takes one of"),
    ],
)
def test_wrong_input_is_an_error_that_says_what_came_and_what_is_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
