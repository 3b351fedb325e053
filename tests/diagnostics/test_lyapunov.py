"""Lyapunov exponents of linear systems, of Lorenz' system, and of stacks."""

import math

import pytest
import torch

from odenets.blocks import AttentionResidual, Residual
from odenets.diagnostics import depth_exponents, lyapunov_exponents
from odenets.fields import MLP
from odenets.fields.systems import Lorenz
from odenets.models import FlowStack
from tests.diagnostics.stacks import linear_stack

DOUBLE = torch.float64


def test_exponents_of_a_linear_system_are_the_real_parts_of_its_eigenvalues():
    a = torch.tensor([[0.2, 3.0, 0.0], [-3.0, 0.2, 1.0], [0.0, 0.0, -1.0]], dtype=DOUBLE)
    dt = 0.05
    x0 = torch.randn(2, 3, dtype=DOUBLE)
    found = lyapunov_exponents(lambda t, x: x @ a.T, x0, 15, dt=dt, transient=10, every=5)
    step = sum(torch.linalg.matrix_power(dt * a, j) / math.factorial(j) for j in range(5))  # R(dt A) of RK4
    for exponents in found.exponents:
        assert exponents.tolist() == pytest.approx([0.2, 0.2, -1.0], abs=0.03)
        # Liouville: the sum is the mean logarithm of the determinant, exactly that of the solver's step
        assert float(exponents.sum()) == pytest.approx(float(torch.linalg.slogdet(step)[1]) / dt, abs=1e-12)
        assert float(exponents.sum()) == pytest.approx(float(a.trace()), abs=2e-5)


def test_the_largest_alone_and_in_a_field_that_depends_on_time():
    found = lyapunov_exponents(
        lambda t, x: x * torch.tensor([1.0, -1.0]) + math.cos(t) * x, torch.ones(1, 2, dtype=DOUBLE), 2 * math.pi, k=1,
        dt=2 * math.pi / 100, transient=2 * math.pi, every=5,
    )  # fmt: skip
    assert float(found.exponents) == pytest.approx(1.0, abs=1e-5)  # the mean of cos over a period is 0
    with pytest.raises(ValueError, match="1 <= k <= 2"):
        lyapunov_exponents(lambda t, x: x, torch.ones(1, 2), 1.0, k=3)


def test_lorenz_exponents():
    torch.manual_seed(0)
    x0 = torch.tensor([1.0, 1.0, 25.0]) + torch.randn(800, 3, dtype=DOUBLE)
    found = lyapunov_exponents(Lorenz(), x0, time=6, dt=0.02, transient=6, every=10)
    mean = found.exponents.mean(0)
    # sigma + 1 + beta is the constant divergence: exact up to the solver. Sprott, Chaos and Time-Series Analysis
    # (2003), table of the Lorenz system: 0.9056, 0, -14.5723.
    assert float(mean.sum()) == pytest.approx(-(10 + 1 + 8 / 3), abs=2e-3)
    # the mean over 800 points of the attractor has a standard error of 0.009
    assert mean.tolist() == pytest.approx([0.9056, 0.0, -14.5723], abs=0.03)
    assert found.history.shape == (30, 800, 3)


def test_exponents_over_depth_add_up_to_the_determinant():
    torch.manual_seed(0)
    matrices = [torch.randn(4, 4, dtype=DOUBLE) for _ in range(3)]
    found = depth_exponents(linear_stack(matrices, T=1.5), torch.randn(2, 4, dtype=DOUBLE))
    determinant = sum(float(torch.linalg.slogdet(torch.eye(4) + 0.5 * a)[1]) for a in matrices)
    assert found.exponents.sum(1).tolist() == pytest.approx([determinant / 1.5] * 2)
    assert found.times.tolist() == pytest.approx([0.5, 1.0, 1.5])
    decay = depth_exponents(linear_stack([-torch.eye(4, dtype=DOUBLE)] * 2, 1.0), torch.randn(1, 4, dtype=DOUBLE), k=2)
    assert decay.exponents[0].tolist() == pytest.approx([math.log(0.5) / 0.5] * 2)


def test_a_state_that_grows_has_no_exponents():
    with pytest.raises(ValueError, match="changes the size"):
        depth_exponents(FlowStack(lambda: AttentionResidual(MLP(4, 6), 4), N=2), torch.randn(2, 4))
    assert depth_exponents(FlowStack(lambda: Residual(MLP(4, 6)), N=2), torch.randn(2, 4)).exponents.shape == (2, 4)
