"""Solves whose steps go through the Runge-Kutta kernels, by Triton's interpreter, beside the plain ones."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from odenets.kernels.backend import chosen, prefer
from odenets.solvers import TABLEAUS, Adaptive, FixedStep, solve
from odenets.solvers.kernel_step import LEAST, takes_kernels

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled there, not interpreted")
A = torch.tensor([[-0.3, 1.1, 0.0], [-1.0, -0.2, 0.4], [0.1, 0.0, -0.5]])


@pytest.fixture(autouse=True)
def nothing_chosen() -> Iterator[None]:
    chosen.clear()
    yield
    chosen.clear()


def field(t: Tensor, y: Tensor, a: Tensor) -> Tensor:
    """Not autonomous, nonlinear, any batch; t [] or [batch]."""
    t = t.reshape(*t.shape, *[1] * (y.dim() - t.dim()))
    return (y @ a.T).tanh() * (1 + 0.5 * torch.sin(3 * t))


def start(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).to(dtype)


def solved(solver, preferred: str, dtype: torch.dtype = torch.float32, **settings):
    """States, gradients with respect to the start, the parameters and the times, and the numbers of steps."""
    y0, a = start(dtype).requires_grad_(), A.to(dtype).requires_grad_()
    ts = torch.tensor([0.0, 0.7, 1.5], requires_grad=True)
    with prefer(preferred):
        solution = solve(field, y0, ts, solver=solver, args=(a,), params=(a,), **settings)
        gradients = torch.autograd.grad(solution.ys.sin().sum(), [y0, a, ts])
    return solution, gradients


SOLVERS = {
    "dopri5, first same as last": Adaptive("dopri5", rtol=1e-4, atol=1e-5),
    "fehlberg2, not": Adaptive("fehlberg2", rtol=1e-2, atol=1e-3),
    "tsit5 per sample": Adaptive("tsit5", rtol=1e-4, atol=1e-5, per_sample=True),
    "bosh3, a norm of its own": Adaptive("bosh3", rtol=1e-3, atol=1e-4, norm=lambda x: x.abs().max()),
    "rk4, fixed": FixedStep("rk4", steps=3),
    "ralston, fixed": FixedStep("ralston", steps=4),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_solution_gradients_and_steps_equal_the_plain_ones(name: str):
    plain, expected = solved(SOLVERS[name], "auto")
    assert "runge_kutta" not in chosen
    kernels, found = solved(SOLVERS[name], "triton")
    assert chosen["runge_kutta"] == "triton"
    torch.testing.assert_close(kernels.ys, plain.ys, rtol=2e-6, atol=2e-6)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for key in ("accepted", "rejected", "nfe"):
        assert torch.equal(torch.as_tensor(getattr(kernels.stats, key)), torch.as_tensor(getattr(plain.stats, key)))


@pytest.mark.parametrize(
    "gradient", ["discrete_adjoint", *(pytest.param(g, marks=pytest.mark.slow) for g in ("checkpoint", "adjoint"))]
)
def test_gradient_methods_take_the_kernels_too(gradient: str):
    settings = {"solver": Adaptive("dopri5", rtol=1e-5, atol=1e-6), "gradient": gradient}
    _, expected = solved(preferred="auto", **settings)
    _, found = solved(preferred="triton", **settings)
    assert chosen["runge_kutta"] == "triton"
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5)


def test_rejected_steps_are_rejected_by_the_same_norm():
    """Started far too large, the steps are refused on both paths alike."""
    solver = Adaptive("dopri5", rtol=1e-6, atol=1e-8, first_step=1.5)
    plain, _ = solved(solver, "auto")
    kernels, _ = solved(solver, "triton")
    assert int(kernels.stats.rejected) == int(plain.stats.rejected) > 0


def test_higher_derivatives_and_transforms_are_as_without_kernels():
    y0 = start()

    def end(y: Tensor) -> Tensor:
        return solve(field, y, (0.0, 1.0), solver=FixedStep("rk4", steps=2), args=(A,)).ys[-1]

    def curvature(y: Tensor) -> Tensor:
        y = y.clone().requires_grad_()
        (slope,) = torch.autograd.grad(end(y).square().sum(), y, create_graph=True)
        return torch.autograd.grad(slope.sin().sum(), y)[0]

    tangent = torch.ones_like(y0)
    expected = torch.func.jvp(end, (y0,), (tangent,))[1], curvature(y0)
    with prefer("triton"):
        found = torch.func.jvp(end, (y0,), (tangent,))[1], curvature(y0)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_double_precision_and_complex_states_never_go_there():
    for dtype in (torch.float64, torch.complex64):
        y = start(dtype)
        with prefer("triton"):
            solve(lambda t, y: -y * (1 + t), y, (0.0, 0.5), solver="dopri5")
    assert "runge_kutta" not in chosen


def test_what_decides():
    y = start()
    assert not takes_kernels(y, y)  # the CPU
    with prefer("triton"):
        assert takes_kernels(y, y)
        assert not takes_kernels(y.double(), y.double())
        assert not takes_kernels(y, y.double())

    class Device:  # a state that says it is on a GPU
        is_cuda, dtype = True, torch.float32

        def __init__(self, count: int) -> None:
            self.count = count

        def numel(self) -> int:
            return self.count

    assert not takes_kernels(Device(LEAST - 1), y)


def test_every_tableau_s_weights_are_what_the_kernels_expect():
    for name, tableau in TABLEAUS.items():
        assert len(tableau.b) == tableau.stages, name
        assert all(len(row) >= i for i, row in enumerate(tableau.a)), name
        if tableau.fsal:
            assert list(tableau.a[-1][: tableau.stages - 1]) == pytest.approx(list(tableau.b[:-1])), name
