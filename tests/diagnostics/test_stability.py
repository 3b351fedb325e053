"""Stability regions against known intervals, and layers' eigenvalues against linear fields with known spectra."""

import math

import pytest
import torch
from torch import Tensor, nn

from odenets.blocks import Delta, HyperConnections, ManifoldHyperConnections, Momentum, Residual, RungeKuttaBlock
from odenets.diagnostics import layer_eigenvalues, ode_eigenvalues, stability_region
from odenets.fields import MLP
from odenets.models import FlowStack, NeuralODE
from odenets.solvers import FixedStep


class Rotation(nn.Module):
    """x' = (-a x + b y, -b x - a y): eigenvalues -a +- ib."""

    def __init__(self, a: float, b: float):
        super().__init__()
        self.register_buffer("matrix", torch.tensor([[-a, b], [-b, -a]], dtype=torch.float64))

    def forward(self, t, x: Tensor) -> Tensor:
        return x @ self.matrix.T


# Ends of the intervals on the negative real and the positive imaginary axis: Hairer, Wanner II, section IV.2 and IV.3
@pytest.mark.parametrize(
    ("scheme", "real", "imaginary"),
    [
        ("forward_euler", 2.0, 0.0),
        ("rk2", 2.0, 0.0),
        ("rk4", 2.785293563405282, 2 * math.sqrt(2)),
        ("backward_euler", math.inf, math.inf),
        ("implicit_midpoint", math.inf, math.inf),
        ("exponential", math.inf, math.inf),
    ],
)
def test_the_region_crosses_the_axes_where_it_should(scheme: str, real: float, imaginary: float):
    region = stability_region(scheme, re=(-4, 1), im=(-4, 4), points=1001)
    assert region.real_limit == pytest.approx(real, abs=1e-9)
    assert region.imaginary_limit == pytest.approx(imaginary, abs=1e-9)
    stable = region.modulus <= 1 + 1e-9
    on_axis = stable[region.im.abs().argmin()]
    first = region.re[on_axis & (region.re <= 0)].min()
    assert float(first) == pytest.approx(-min(real, 4), abs=0.011)
    assert region.modulus.shape == (len(region.im), len(region.re))
    assert region.is_a_stable == math.isinf(real)


def test_the_stability_function_is_that_of_the_scheme_off_the_axes():
    region = stability_region("backward_euler", re=(-1, 0), im=(0, 1), points=2)
    assert region.modulus[1, 0] == pytest.approx(1 / abs(1 - complex(-1, 1)))
    with pytest.raises(ValueError, match="intervals"):
        stability_region("rk4", re=(1, -1))


@pytest.mark.parametrize(("h", "inside"), [(0.5, True), (1.2, False)])
def test_eigenvalues_of_a_residual_layer_lie_where_forward_euler_says(h: float, inside: bool):
    stack = FlowStack(lambda: Residual(Rotation(1.0, 1.0)), T=2 * h, N=2)
    layers = layer_eigenvalues(stack, torch.randn(3, 2, dtype=torch.float64))
    assert [layer.scheme for layer in layers] == ["forward_euler"] * 2
    values = layers[0].z[0]
    assert sorted(values.imag.tolist()) == pytest.approx([-h, h])
    assert values.real.tolist() == pytest.approx([-h, -h])
    assert layers[0].radius == pytest.approx(math.hypot(1 - h, h))
    assert layers[0].outside == (0.0 if inside else 1.0)  # |1 + z| = 1 at h = 1


def test_a_runge_kutta_block_is_judged_by_its_own_scheme():
    stack = FlowStack(lambda: RungeKuttaBlock(Rotation(0.0, 1.0), method="rk4"), T=2.8, N=1)
    (layer,) = layer_eigenvalues(stack, torch.randn(1, 2, dtype=torch.float64))
    assert layer.scheme == "rk4"
    assert layer.outside == 0.0  # 2.8 < 2 sqrt 2


def test_the_linear_part_of_a_delta_block_gives_its_gate():
    torch.manual_seed(0)
    stack = FlowStack(lambda: Delta(MLP(4, 6), 4, scheme="backward_euler"), T=2.0, N=2)
    x = torch.randn(3, 4)
    for layer, block, state in zip(layer_eigenvalues(stack, x), stack.blocks, stack.trajectory(x)):
        gate = block.gate(layer.t, state, 1.0).detach().double()
        torch.testing.assert_close(1 - 1 / (1 - layer.linear[:, 0].real), gate)
        assert layer.outside == 0.0


def test_streams_mixed_by_doubly_stochastic_matrices_stay_inside_at_any_step_size():
    torch.manual_seed(0)
    for parametrisation in ("sinkhorn", "generator"):
        stack = FlowStack(
            lambda p=parametrisation: ManifoldHyperConnections(MLP(4, 6), 4, parametrisation=p), T=3.0, N=2
        )
        with torch.no_grad():
            for p in stack.parameters():
                p.add_(0.3 * torch.randn_like(p))
        for layer in layer_eigenvalues(stack, torch.randn(3, 4)):
            assert layer.linear.shape == (3, 4)
            growth = (1 + layer.linear).abs() if parametrisation == "sinkhorn" else (1 / (1 - layer.linear)).abs()
            assert float(growth.max()) <= 1 + 1e-5
            assert layer.radius == pytest.approx(float(growth.max()))
    stack = FlowStack(lambda: HyperConnections(MLP(4, 6), 4, dynamic=False), T=1.0, N=1)
    with torch.no_grad():
        stack.blocks[0].flow.coefficients.a_r.mul_(1.5)  # I + M = 1.5 I
    (layer,) = layer_eigenvalues(stack, torch.randn(3, 4))
    assert layer.radius == pytest.approx(1.5)
    assert (layer.growing, layer.outside) == (1.0, 0.0)  # the flow itself grows: no fault of the scheme


def test_the_sinkhorn_step_does_not_scale_with_h():
    torch.manual_seed(0)
    stack = FlowStack(lambda: ManifoldHyperConnections(MLP(3, 6).double(), 3).double(), T=0.25, N=1)
    x = torch.randn(2, 3, dtype=torch.float64)
    (layer,) = layer_eigenvalues(stack, x)
    state = stack.block(0).lift(x)
    jacobian = torch.autograd.functional.jacobian(lambda y: stack.block(0)(0.0, y, 0.25).sum(0), state)
    expected = torch.linalg.eigvals(jacobian.movedim(2, 0).reshape(2, 12, 12)) - 1
    assert layer.z[0].real.sort().values.tolist() == pytest.approx(expected[0].real.sort().values.tolist(), abs=1e-8)
    mixing = torch.linalg.eigvals(stack.block(0).step_matrix(0.0, state)) - 1
    assert layer.linear.real.sort(1).values[0].tolist() == pytest.approx(
        mixing.real.sort(1).values[0].tolist(), abs=1e-9
    )


@pytest.mark.parametrize("solver", [FixedStep("rk4", steps=2), "dopri5"])
def test_eigenvalues_along_a_neural_ode(solver):
    layers = ode_eigenvalues(NeuralODE(Rotation(0.5, 2.0), solver, t1=3.0), torch.randn(2, 2, dtype=torch.float64), 3)
    assert [layer.t for layer in layers] == pytest.approx([0.0, 1.0, 2.0])
    for layer in layers:
        torch.testing.assert_close((layer.z[0] / layer.h).real, torch.tensor([-0.5, -0.5], dtype=torch.float64))
        assert layer.scheme == ("dopri5" if solver == "dopri5" else "rk4")
    if solver == "dopri5":
        assert 0 < layers[0].h < 3.0
    else:
        z = complex(-0.75, 3.0)
        assert layers[0].h == 1.5
        assert layers[0].radius == pytest.approx(abs(1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24))
        assert layers[0].outside == 1.0


def test_a_step_without_a_vector_field_has_no_eigenvalues_to_draw():
    with pytest.raises(ValueError, match="layer_spectra"):
        layer_eigenvalues(FlowStack(lambda: Momentum(MLP(3, 4))), torch.randn(1, 3))
