"""Weights as functions of time: the bases against scipy and numpy, the wrapper against the fields it wraps."""

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch import nn

from odenets.fields import MLP, Autonomous, TimeVarying
from odenets.fields.basis import Fourier, Piecewise, Spline, grid


@pytest.mark.parametrize(("size", "T"), [(4, 1.0), (5, 1.0), (9, 2.5)])
def test_spline_basis_equals_scipy(size, T):
    inner = np.linspace(0, T, size - 2)
    knots = np.concatenate([[0] * 3, inner, [T] * 3])
    # Knots, both ends and points between.
    ts = np.unique(np.concatenate([inner, np.linspace(0, T, 23)]))
    expected = np.stack([BSpline(knots, np.eye(size)[j], 3)(ts) for j in range(size)], axis=-1)
    values = Spline(size, T).values(torch.as_tensor(ts)).numpy()
    np.testing.assert_allclose(values, expected, atol=1e-13)
    np.testing.assert_allclose(values.sum(-1), 1, rtol=1e-13)


def test_spline_derivative_in_time_equals_scipy():
    size, ts = 7, torch.linspace(0, 1, 9, dtype=torch.float64, requires_grad=True)
    knots = np.concatenate([[0] * 3, np.linspace(0, 1, size - 2), [1] * 3])
    for j in range(size):
        (slope,) = torch.autograd.grad(Spline(size).values(ts)[:, j].sum(), ts)
        expected = BSpline(knots, np.eye(size)[j], 3).derivative()(ts.detach().numpy())
        np.testing.assert_allclose(slope.numpy(), expected, atol=1e-11)


def test_spline_holds_its_end_values_outside_the_interval():
    outside = Spline(6, T=2.0).values(torch.tensor([-1.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(outside, torch.eye(6, dtype=torch.float64)[[0, 5]])


def test_fourier_basis_equals_numpy():
    ts, T = np.linspace(-0.3, 4.0, 11), 2.0
    w = 2 * np.pi * ts / T
    expected = np.stack([np.ones_like(ts), np.cos(w), np.sin(w), np.cos(2 * w), np.sin(2 * w), np.cos(3 * w)], axis=-1)
    np.testing.assert_allclose(Fourier(6, T).values(torch.as_tensor(ts)).numpy(), expected, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("T", "pieces", "refinement"), [(1.0, 3, 1), (3.3, 12, 5), (0.7, 8, 3), (1.1, 5, 3)])
def test_a_step_that_starts_on_a_jump_sees_the_new_piece(T, pieces, refinement, dtype):
    steps = torch.tensor(grid(T, pieces * refinement)[:-1], dtype=dtype)
    basis = Piecewise(pieces, T)
    assert basis.index(steps).tolist() == [n // refinement for n in range(pieces * refinement)]
    jumps = torch.tensor(basis.jump_times, dtype=dtype)
    before = torch.nextafter(jumps, torch.tensor(-1.0, dtype=dtype))
    assert basis.index(jumps).tolist() == list(range(1, pieces))
    assert basis.index(before).tolist() == list(range(pieces - 1))


def test_piecewise_weights_equal_the_module_that_was_drawn_for_that_piece():
    made = []

    def factory():
        made.append(MLP(3, 8))
        return made[-1]

    torch.manual_seed(0)
    field = TimeVarying(factory, "piecewise", nodes=3, T=1.5)
    expected = [dict(m.state_dict()) for m in made]  # read after wrapping: the first was taken over as the template
    expected[0] = {name: w[0] for name, w in field.template.state_dict().items()}
    x = torch.randn(4, 3)
    assert field.jump_times == (0.5, 1.0)
    for t, piece in [(-1.0, 0), (0.0, 0), (0.49, 0), (0.5, 1), (0.99, 1), (1.0, 2), (1.5, 2), (9.0, 2)]:
        chosen = MLP(3, 8)
        chosen.load_state_dict(expected[piece])
        torch.testing.assert_close(field(t, x), chosen(t, x), rtol=0, atol=0)


@pytest.mark.parametrize(("basis", "nodes"), [("spline", 6), ("fourier", 5)])
def test_weights_are_the_sum_of_basis_times_coefficients(basis, nodes):
    torch.manual_seed(0)
    field = TimeVarying(Autonomous(nn.Linear(3, 2)), basis, nodes, T=2.0).double()
    for parameter in field.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(4, 3, dtype=torch.float64)
    for t in (0.0, 0.3, 1.7, 2.0):
        b = field.basis.values(torch.tensor(t, dtype=torch.float64)).numpy()
        w = np.einsum("j,joi->oi", b, field.template.get_parameter("module.weight").detach().numpy())
        c = np.einsum("j,jo->o", b, field.template.get_parameter("module.bias").detach().numpy())
        np.testing.assert_allclose(field(t, x).detach().numpy(), x.numpy() @ w.T + c, rtol=1e-12)


@pytest.mark.parametrize(("basis", "nodes"), [("piecewise", 3), ("spline", 6), ("fourier", 5)])
def test_a_wrapped_module_starts_independent_of_time(basis, nodes):
    torch.manual_seed(0)
    module = MLP(3, 8)
    field = TimeVarying(module, basis, nodes, T=2.0)
    x = torch.randn(4, 3)
    for t in (0.0, 0.3, 1.7, 2.0):
        torch.testing.assert_close(field(t, x), module(t, x), rtol=1e-6, atol=1e-6)
    assert sum(p.numel() for p in field.parameters()) == nodes * sum(p.numel() for p in module.parameters())


def test_a_weight_shared_by_two_layers_stays_shared():
    linear = nn.Linear(3, 3)
    module = Autonomous(nn.Sequential(linear, nn.Tanh(), linear))
    field = TimeVarying(module, "piecewise", 2)
    assert sum(p.numel() for p in field.parameters()) == 2 * 12
    x = torch.randn(4, 3)
    torch.testing.assert_close(field(0.1, x), module(0.1, x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TimeVarying(MLP(2), "chebyshev"), r"basis= takes one of .*'spline'.* got 'chebyshev'"),
        (lambda: TimeVarying(MLP(2), "spline", nodes=3), r"Spline basis expects nodes >= 4, got 3"),
        (lambda: TimeVarying(MLP(2), "fourier", nodes=0), r"Fourier basis expects nodes >= 1, got 0"),
        (lambda: TimeVarying(MLP(2), T=0.0), r"Piecewise basis expects a finite T > 0, got 0"),
    ],
)
def test_wrong_input_is_an_error_that_says_what_came_and_what_is_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
