"""Physical systems against right-hand sides written with numpy, and their invariants along the field."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from odenets.fields import (
    Brusselator,
    DampedOscillator,
    HenonHeiles,
    Kepler,
    Lorenz,
    LotkaVolterra,
    Pendulum,
    Robertson,
    VanDerPol,
)
from odenets.fields.systems import System


def kepler(t, qx, qy, vx, vy):
    r = np.hypot(qx, qy)
    return vx, vy, -0.9 * qx / r**3, -0.9 * qy / r**3


# A system with coefficients away from the standard ones, and the same right-hand side by hand.
SYSTEMS: dict[str, tuple[Callable[..., System], Callable[..., tuple]]] = {
    "lorenz": (
        lambda **k: Lorenz(9, 27, 2.5, **k),
        lambda t, x, y, z: (9 * (y - x), x * (27 - z) - y, x * y - 2.5 * z),
    ),
    "van_der_pol": (lambda **k: VanDerPol(5.5, **k), lambda t, x, v: (v, 5.5 * (1 - x**2) * v - x)),
    "lotka_volterra": (
        lambda **k: LotkaVolterra(1.1, 0.4, 0.7, 0.2, **k),
        lambda t, x, y: (1.1 * x - 0.4 * x * y, 0.2 * x * y - 0.7 * y),
    ),
    "pendulum": (lambda **k: Pendulum(9.81, 2.0, **k), lambda t, a, w: (w, -9.81 / 2 * np.sin(a))),
    "pendulum_driven": (
        lambda **k: Pendulum(9.81, 2.0, 0.3, 1.2, 0.8, **k),
        lambda t, a, w: (w, -9.81 / 2 * np.sin(a) - 0.3 * w + 1.2 * np.cos(0.8 * t)),
    ),
    "kepler": (lambda **k: Kepler(0.9, **k), kepler),
    "henon_heiles": (
        lambda **k: HenonHeiles(0.8, **k),
        lambda t, x, y, u, v: (u, v, -x - 1.6 * x * y, -y - 0.8 * (x**2 - y**2)),
    ),
    "brusselator": (
        lambda **k: Brusselator(1.2, 2.9, **k),
        lambda t, x, y: (1.2 + x**2 * y - 3.9 * x, 2.9 * x - x**2 * y),
    ),
    "damped_oscillator": (lambda **k: DampedOscillator(2.0, 0.3, **k), lambda t, x, v: (v, -4 * x - 1.2 * v)),
    "robertson": (
        lambda **k: Robertson(0.05, 2e7, 3e4, **k),
        lambda t, a, b, c: (-0.05 * a + 3e4 * b * c, 0.05 * a - 3e4 * b * c - 2e7 * b**2, 2e7 * b**2),
    ),
}


def states(dim: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(*shape, dim, dtype=dtype, generator=torch.Generator().manual_seed(0)) + 0.2


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_right_hand_side_equals_the_formula(name, dtype, tolerance, learnable):
    make, formula = SYSTEMS[name]
    system = make(learnable=learnable).to(dtype)
    # A learned coefficient is made in the default dtype, float32: exact to its rounding, amplified by exp.
    tolerance = max(tolerance, 1e-5) if learnable else tolerance
    x = states(system.dim, 3, 4, dtype=dtype)
    expected = np.stack(formula(0.7, *np.moveaxis(x.double().numpy(), -1, 0)), axis=-1)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(system(0.7, x).detach().numpy(), expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize(
    ("system", "invariant"),
    [
        (LotkaVolterra(1.1, 0.4, 0.7, 0.2), "invariant"),
        (LotkaVolterra(learnable=True), "invariant"),
        (Pendulum(9.81, 2.0), "energy"),
        (Kepler(0.9), "energy"),
        (HenonHeiles(0.8), "energy"),
        (Kepler(0.9), "angular_momentum"),
        (Robertson(), "total"),
    ],
)
def test_the_invariant_does_not_change_along_the_field(system, invariant):
    x = states(system.dim, 3, 4).requires_grad_()
    value = getattr(system, invariant)(x)
    assert value.shape == (3, 4)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    field = system(0.0, x)
    rate = (gradient * field).sum(-1)
    assert rate.abs().max() <= 1e-13 * (gradient * field).abs().max()
    assert gradient.abs().amin(-1).max() > 0  # not a constant


def test_invariants_have_their_textbook_values():
    torch.testing.assert_close(Kepler().energy(Kepler().initial_state()).item(), -0.5)
    torch.testing.assert_close(Kepler().angular_momentum(Kepler().initial_state()).item(), 0.8)
    up = torch.tensor([np.pi, 0.0], dtype=torch.float64)
    torch.testing.assert_close(Pendulum(9.81, 2.0).energy(up).item(), 9.81)
    torch.testing.assert_close(LotkaVolterra().invariant(torch.ones(2)).item(), 2.0)
    assert Robertson().total(Robertson().initial_state()).item() == 1.0


def test_damping_takes_energy_at_the_rate_of_the_friction():
    pendulum = Pendulum(damping=0.3)
    x = states(2, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(pendulum.energy(x).sum(), x)
    torch.testing.assert_close((gradient * pendulum(0.0, x)).sum(-1), -0.3 * x[:, 1] ** 2)


def test_fixed_points_are_fixed():
    a, b = 1.2, 2.9
    assert Brusselator(a, b)(0.0, torch.tensor([a, b / a], dtype=torch.float64)).abs().max() < 1e-14
    r = np.sqrt(8 / 3 * 27)
    assert Lorenz()(0.0, torch.tensor([r, r, 27.0], dtype=torch.float64)).abs().max() < 1e-12
    assert LotkaVolterra()(0.0, torch.tensor([3.0, 1.5], dtype=torch.float64)).abs().max() < 1e-14


def test_fixed_coefficients_have_no_parameters_and_learned_ones_stay_positive():
    assert list(LotkaVolterra().parameters()) == []
    system = LotkaVolterra(learnable=True)
    assert len(list(system.parameters())) == 4
    for parameter in system.parameters():
        parameter.data -= 50.0  # a wild gradient step
    assert all(c() > 0 for c in (system.alpha, system.beta, system.gamma, system.delta))


def test_a_tensor_coefficient_gives_an_ensemble():
    mu = torch.tensor([0.5, 1.0, 4.0])
    x = states(2, 3, dtype=torch.float32)
    together = VanDerPol(mu)(0.0, x)
    for i in range(3):
        torch.testing.assert_close(together[i], VanDerPol(mu[i].item())(0.0, x[i]))


def test_wrong_input_is_an_error_that_says_what_came_and_what_is_expected():
    with pytest.raises(ValueError, match=r"Kepler expects x \[..., 4\] = \(qx, qy, vx, vy\), got \[4, 3\]"):
        Kepler()(0.0, torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"alpha must be > 0 to be learned .*got -1"):
        LotkaVolterra(alpha=-1.0, learnable=True)


@pytest.mark.parametrize(
    "system", [Kepler(0.9), HenonHeiles(0.8), Pendulum(9.81, 2.0, drive=1.2, drive_frequency=0.8)], ids=repr
)
def test_drift_and_kick_are_the_halves_of_the_field(system):
    x = states(system.dim, 3, 4)
    q, p = x.chunk(2, -1)
    t = torch.tensor(0.7, dtype=torch.float64)
    assert torch.allclose(torch.cat([system.drift(t, p), system.kick(t, q)], -1), system(t, x), rtol=1e-14, atol=0)


def test_a_damped_pendulum_has_no_kick():
    with pytest.raises(ValueError, match="damping=0"):
        Pendulum(damping=0.1).kick(0.0, torch.ones(1))
