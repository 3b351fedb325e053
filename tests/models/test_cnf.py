"""Continuous normalising flows against closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from odenets.fields import MLP
from odenets.models import CNF
from odenets.models.divergence import draw_noise, exact_divergence, hutchinson_divergence
from odenets.solvers import Adaptive, FixedStep

F64 = torch.float64
TIGHT = Adaptive("dopri5", rtol=1e-8, atol=1e-8)
MATRIX = torch.tensor([[-0.3, 1.1], [-0.7, 0.5]], dtype=F64)


class Scaled(nn.Module):
    """x' = cos(t) A x: solutions exp(sin(t) A) x(0), divergence cos(t) tr A."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(MATRIX.clone())

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return t.cos() * x @ self.matrix.T


def curved(seed: int = 0, trace: str = "exact", **settings) -> CNF:
    """A field that bends and depends on time, at tight tolerances."""
    torch.manual_seed(seed)
    field = MLP(2, hidden=16, time="concat", out_scale=3.0)
    return CNF(field, trace=trace, **{"solver": TIGHT, "T": 1.3, **settings}).to(F64)


def test_a_gaussian_moved_by_a_linear_field_is_the_gaussian_of_the_moved_covariance():
    T = 1.3
    model = CNF(Scaled(), solver=TIGHT, T=T)
    x = 2 * torch.randn(50, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    flow = torch.linalg.matrix_exp(math.sin(T) * MATRIX)
    expected = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=F64), flow @ flow.T).log_prob(x)
    found = model(x, penalties=True)
    torch.testing.assert_close(model.log_prob(x), expected, atol=1e-6, rtol=0)
    expected = -math.sin(T) * MATRIX.trace().expand(50)
    torch.testing.assert_close(found.log_det, expected, atol=1e-6, rtol=0)
    # the Jacobian is cos(t) A everywhere, and the integral of cos^2 over [0, T] is T/2 + sin(2 T)/4
    frobenius = float(MATRIX.square().sum()) * (T / 2 + math.sin(2 * T) / 4)
    torch.testing.assert_close(found.jacobian, x.new_full((50,), frobenius), atol=1e-6, rtol=0)
    # int |f|^2 by Gauss-Legendre along the closed-form solution
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(30))
    times = T / 2 * (nodes + 1)
    states = torch.linalg.matrix_exp(times.sin()[:, None, None] * MATRIX) @ torch.linalg.solve(flow, x.T)  # [n, 2, B]
    speed = (times.cos()[:, None, None] * (MATRIX @ states)).square().sum(1)  # [n, B]
    torch.testing.assert_close(found.kinetic, T / 2 * (weights[:, None] * speed).sum(0), atol=1e-6, rtol=0)


def test_log_det_is_that_of_the_inverse_map():
    """Independent of the trace: the Jacobian of x -> z by differentiating the whole solve."""
    model = curved()
    x = torch.randn(2, 2, dtype=F64)
    jacobians = [torch.autograd.functional.jacobian(lambda p: model(p[None]).z[0], p) for p in x]
    expected = torch.stack([torch.linalg.slogdet(j)[1] for j in jacobians])
    torch.testing.assert_close(model(x).log_det, expected, atol=1e-6, rtol=0)


def test_sampling_inverts_the_way_to_the_base():
    model = curved()
    x = torch.randn(20, 2, dtype=F64)
    torch.testing.assert_close(model.push(model(x).z), x, atol=1e-6, rtol=0)
    drawn = model.sample(5, torch.Generator().manual_seed(3))
    expected = torch.randn(5, 2, dtype=F64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model(drawn).z, expected, atol=1e-6, rtol=0)
    assert not drawn.requires_grad


def test_the_density_integrates_to_one_over_the_plane():
    model = curved(1, solver=Adaptive("dopri5", rtol=1e-6, atol=1e-6))
    axis = torch.linspace(-9, 9, 91, dtype=F64)
    plane = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = model.log_prob(plane).exp()
    # the trapezoidal rule is exact to rounding for a smooth density that has died out at the edge
    assert float(density.sum() * 0.2**2) == pytest.approx(1, abs=1e-4)
    assert float((density / model.base_log_prob(plane).exp() - 1).abs().max()) > 0.5  # the field moved it


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_hutchinsons_estimates_have_the_exact_expectation(kind):
    field = curved().field
    x = torch.randn(2, dtype=F64).expand(40000, 2)
    t = torch.tensor(0.4, dtype=F64)
    field.requires_grad_(False)
    value, trace, norm = exact_divergence(field, t, x[:1])
    jacobian = torch.autograd.functional.jacobian(lambda p: field(t, p), x[0])
    torch.testing.assert_close(trace[0], jacobian.trace())
    torch.testing.assert_close(norm[0], jacobian.square().sum())
    torch.manual_seed(1)
    noise = draw_noise(kind, x)
    same, traces, norms = hutchinson_divergence(field, t, x, noise)
    torch.testing.assert_close(same, value.expand_as(same))
    for samples, exact in ((traces, trace), (norms, norm)):
        error = float(samples.std()) / len(x) ** 0.5
        assert abs(float(samples.mean() - exact)) < 4 * error
        assert error < 0.02 * float(norm) ** 0.5
    fourth = float(noise.pow(4).mean())  # 1 for signs, 3 for normal numbers
    assert fourth == pytest.approx({"rademacher": 1, "gaussian": 3}[kind], abs=0.1)


def test_noise_is_drawn_once_per_solve_and_not_at_all_in_evaluation():
    model = curved(trace="hutchinson")
    seen = []
    model.field.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randn(4, 2, dtype=F64)
    torch.manual_seed(5)
    first = model.log_prob(x)
    assert len(seen) > 20
    drawn = torch.get_rng_state()
    torch.manual_seed(5)
    draw_noise("rademacher", x)
    assert torch.equal(torch.get_rng_state(), drawn)
    exact = model.eval().log_prob(x)
    torch.testing.assert_close(exact, curved().log_prob(x))
    assert float((first - exact).detach().abs().max()) > 1e-3


def gradients(gradient, solver, trace):
    model = curved(trace=trace, gradient=gradient, solver=solver)
    x = torch.randn(8, 2, dtype=F64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    torch.manual_seed(4)
    moved = model(x, penalties=True)
    log_prob = model.base_log_prob(moved.z) + moved.log_det
    (0.3 * moved.kinetic + 0.2 * moved.jacobian - log_prob).mean().backward()
    return torch.cat([x.grad.flatten(), *[p.grad.flatten() for p in model.parameters()]])


@pytest.mark.parametrize(
    ("gradient", "trace", "solver", "tolerance"),
    [
        ("adjoint", "exact", TIGHT, 1e-5),
        ("adjoint", "hutchinson", TIGHT, 1e-5),
        ("discrete_adjoint", "hutchinson", FixedStep("rk4", steps=4), 1e-12),
        ("recursive", "exact", FixedStep("rk4", steps=4), 1e-12),
        ("reversible", "hutchinson", FixedStep("reversible_heun", steps=8), 1e-10),
    ],
)
def test_gradient_methods_take_the_state_with_its_integrals(gradient, trace, solver, tolerance):
    expected = gradients("autograd", solver, trace)
    assert float((gradients(gradient, solver, trace) - expected).norm()) <= tolerance * float(expected.norm())


def test_implicit_solvers_reach_the_same_density():
    x = torch.randn(3, 2, dtype=F64)
    found = curved(solver=FixedStep("gl4", steps=6)).log_prob(x)
    torch.testing.assert_close(found, curved().log_prob(x), atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"trace": "exakt"}, "trace="), ({"noise": "uniform"}, "noise="), ({"T": 0.0}, "T > 0"), ({"dim": 0}, "dim >= 1")],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        CNF(MLP(2), **settings)


def test_the_shape_of_points_is_checked():
    with pytest.raises(ValueError, match=r"CNF expects x \[B, 2\], got \[4, 3\]"):
        CNF(MLP(2)).log_prob(torch.zeros(4, 3))
