"""Schemes: stability and forcing functions, gates, limits, matrix functions."""

import math

import mpmath
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from odenets.flows import SCHEMES, Exponential, Rational, resolve_scheme, theta
from odenets.flows.registry import RADAU_IIA3
from odenets.solvers import TABLEAUS
from tests.flows.dense import BY_TABLEAU, GAUSS4, SCHEME_NAMES, dense_functions


@pytest.mark.parametrize("name", [*BY_TABLEAU, "gl4"])
def test_r_and_q_are_the_tableaus(name):
    tableau = GAUSS4 if name == "gl4" else BY_TABLEAU[name]
    scheme = Rational.from_tableau(tableau) if name == "gl4" else resolve_scheme(name)
    rng = np.random.default_rng(0)
    z = rng.standard_normal(200) * 3 + 3j * rng.standard_normal(200)
    for ours, theirs in ((scheme.R, tableau.stability_function), (scheme.Q, tableau.forcing_function)):
        np.testing.assert_allclose(ours(torch.from_numpy(z)).numpy(), theirs(z), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("tableau", [*TABLEAUS.values(), RADAU_IIA3, GAUSS4], ids=lambda t: t.name)
def test_the_order_of_r_is_the_methods_order(tableau):
    assert Rational.from_tableau(tableau).order == tableau.order


def test_closed_forms():
    z = torch.linspace(-3, 0.9, 50, dtype=torch.float64)
    for name, r, q in (
        ("forward_euler", 1 + z, torch.ones_like(z)),
        ("backward_euler", 1 / (1 - z), 1 / (1 - z)),
        ("trapezoid", (1 + z / 2) / (1 - z / 2), 1 / (1 - z / 2)),
        ("cayley", (1 + z / 2) / (1 - z / 2), 1 / (1 - z / 2)),
        ("rk2", 1 + z + z**2 / 2, 1 + z / 2),
        ("rk4", 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24, 1 + z / 2 + z**2 / 6 + z**3 / 24),
        ("radau_iia3", (1 + z / 3) / (1 - 2 * z / 3 + z**2 / 6), (1 - z / 6) / (1 - 2 * z / 3 + z**2 / 6)),
    ):
        scheme = resolve_scheme(name)
        torch.testing.assert_close(scheme.R(z), r, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(scheme.Q(z), q, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", SCHEME_NAMES)
def test_q_and_q2_continue_r_and_floats_equal_tensors(name):
    scheme = resolve_scheme(name)
    z = torch.tensor([-40.0, -3.0, -1.0, -0.99, -0.3, -1e-6, 0.0, 0.2], dtype=torch.float64)
    torch.testing.assert_close(1 + z * scheme.Q(z), scheme.R(z), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(1 + z * scheme.Q2(z), scheme.Q(z), rtol=1e-13, atol=1e-14)
    assert scheme.Q(0.0) == scheme.R(0.0) == 1
    for function, w in ((scheme.R, z), (scheme.Q, z), (scheme.Q2, z), (scheme.gate, -z)):
        expected = torch.tensor([function(float(x)) for x in w], dtype=torch.float64)
        torch.testing.assert_close(function(w), expected, rtol=1e-14, atol=1e-15)


def phi_derivative(index: int, m: int, x: float) -> float:
    """phi_k^(m)(x) = sum_j x^j / j! (j + m)! / (j + m + k)!, to 60 digits."""
    with mpmath.workdps(60):
        total = mpmath.mpf(0)
        for j in range(150):
            total += (
                mpmath.mpf(x) ** j / mpmath.factorial(j) * mpmath.factorial(j + m) / mpmath.factorial(j + m + index)
            )
        return float(total)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 4e-7), (torch.float64, 1e-15)])
def test_phi_functions_and_their_derivatives_keep_all_digits_near_zero(dtype, tolerance):
    points = [-30.0, -1.0, -0.999, -0.3, -1e-3, -1e-6, -1e-12, 0.0, 1e-9, 1e-4, 0.7, 1.5]
    z = torch.tensor(points, dtype=dtype, requires_grad=True)
    for index, function in ((1, Exponential().Q), (2, Exponential().Q2)):
        value = function(z)
        (first,) = torch.autograd.grad(value.sum(), z, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), z)
        for derivative, ours in ((0, value), (1, first), (2, second)):
            exact = [phi_derivative(index, derivative, x) for x in z.detach().double().tolist()]
            expected = torch.tensor(exact, dtype=torch.float64)
            error = (ours.detach().double() - expected).abs() / expected.abs()
            assert error.max() < tolerance * 10**derivative, (index, derivative, error)


def test_gates_are_the_ones_of_delta_learning():
    z = torch.linspace(-8, 8, 65, dtype=torch.float64)
    h = z.exp()
    close = {"rtol": 1e-14, "atol": 0.0}
    torch.testing.assert_close(resolve_scheme("forward_euler").gate(h), h, **close)
    torch.testing.assert_close(resolve_scheme("backward_euler").gate(h), torch.sigmoid(h.log()), rtol=1e-13, atol=0.0)
    torch.testing.assert_close(resolve_scheme("implicit_midpoint").gate(2 * h), 2 * torch.sigmoid(z), **close)
    softplus = torch.nn.functional.softplus(z, threshold=100)
    torch.testing.assert_close(resolve_scheme("exponential").gate(softplus), torch.sigmoid(z), **close)
    u = torch.linspace(0, 4, 41, dtype=torch.float64)
    torch.testing.assert_close(resolve_scheme("rk2").gate(u), u - u**2 / 2)
    rk4 = 1 - (1 - u + u**2 / 2 - u**3 / 6 + u**4 / 24)
    torch.testing.assert_close(resolve_scheme("rk4").gate(u), rk4)
    assert resolve_scheme("rk2").gate(u).max() == 0.5


@pytest.mark.parametrize("name", SCHEME_NAMES)
def test_the_gate_is_one_minus_r_without_its_cancellation(name):
    scheme = resolve_scheme(name)
    h = torch.tensor([0.1, 0.5, 1.0, 2.5], dtype=torch.float64)
    torch.testing.assert_close(scheme.gate(h), 1 - scheme.R(-h), rtol=1e-13, atol=1e-14)
    small = torch.tensor([1e-12], dtype=torch.float32)  # 1 - R(-h) is 0 here
    torch.testing.assert_close(scheme.gate(small), small)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("forward_euler", 1.0), ("implicit_midpoint", 2.0), ("radau_iia3", 3.0), ("backward_euler", math.inf),
        ("exponential", math.inf), ("rk2", math.inf), ("rk4", math.inf), ("theta(0.7)", 10 / 3),
    ],
)  # fmt: skip
def test_where_the_gate_exceeds_one(name, limit):
    scheme = resolve_scheme(name)
    assert scheme.reflects_above == pytest.approx(limit)
    h = torch.logspace(-3, 1.5, 4000, dtype=torch.float64)
    h = h[(h - limit).abs() > 1e-9]
    assert torch.equal(scheme.gate(h) > 1, h > limit)


@pytest.mark.parametrize("name", ["forward_euler", "rk2", "heun3", "rk4", "tsit5", "dopri5", "dopri8", "theta(0.3)"])
def test_stability_limits_are_where_r_passes_one(name):
    scheme = resolve_scheme(name)
    for limit, direction in ((scheme.real_limit, -1), (scheme.imaginary_limit, 1j)):
        assert math.isfinite(limit)
        for x in np.linspace(0, limit, 200)[1:-1]:
            assert abs(complex(scheme.R(torch.tensor(direction * x, dtype=torch.complex128)))) <= 1 + 1e-13
        assert abs(complex(scheme.R(torch.tensor(direction * (limit + 0.3), dtype=torch.complex128)))) > 1


def test_a_and_l_stability():
    a_stable = {"backward_euler", "implicit_midpoint", "exponential", "radau_iia3", "theta(0.7)", "theta(0.5)"}
    l_stable = {"backward_euler", "exponential", "radau_iia3"}
    for name in (*SCHEME_NAMES, "theta(0.5)", "theta(0.3)"):
        scheme = resolve_scheme(name)
        assert scheme.is_a_stable == (name in a_stable), name
        assert scheme.is_l_stable == (name in l_stable), name
        assert (scheme.real_limit == math.inf) == (name in a_stable), name
    assert Rational.from_tableau(GAUSS4).is_a_stable
    assert not Rational.from_tableau(GAUSS4).is_l_stable
    rk4 = resolve_scheme("rk4")
    assert rk4.is_explicit
    assert rk4.real_limit == pytest.approx(2.785293563405282)  # Hairer, Wanner II, section IV.2
    assert rk4.imaginary_limit == pytest.approx(math.sqrt(8))


@pytest.mark.parametrize("name", SCHEME_NAMES)
def test_matrix_functions_equal_the_dense_definition(name):
    torch.manual_seed(0)
    scheme = resolve_scheme(name)
    m = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    m[0, 0] = 0
    m[0, 1] = torch.tensor([[0.0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])  # singular, not diagonalisable
    m[1] -= 3 * torch.eye(4)
    r, q = scheme.matrices(m)
    for i in range(3):
        for j in range(2):
            expected = dense_functions(name, m[i, j].numpy())
            for ours, theirs in zip((r[i, j], q[i, j]), expected):
                torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(scheme.R_matrix(m), r, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(scheme.Q_matrix(m), q, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", SCHEME_NAMES)
def test_gradients(name):
    torch.manual_seed(0)
    scheme = resolve_scheme(name)
    z = torch.tensor([-3.0, -0.5, -1e-3, 0.0, 0.4], dtype=torch.float64, requires_grad=True)
    for function in (scheme.R, scheme.Q, scheme.Q2):
        assert gradcheck(function, z)
        assert gradgradcheck(lambda z, function=function: function(z) * z * z, z)  # some are constant
    assert gradcheck(lambda h: scheme.gate(-h), z)
    m = (0.3 * torch.randn(2, 3, 3, dtype=torch.float64)).requires_grad_()
    assert gradcheck(scheme.matrices, m)
    assert gradgradcheck(scheme.R_matrix, m)


def test_low_precision_is_raised_to_single_and_large_steps_do_not_overflow():
    for name in SCHEME_NAMES:
        scheme = resolve_scheme(name)
        h = torch.tensor([0.5, 2.0], dtype=torch.bfloat16)
        assert scheme.gate(h).dtype == scheme.R(h).dtype == scheme.R_matrix(torch.zeros(2, 2).bfloat16()).dtype
        assert scheme.gate(h).dtype == torch.float32
        torch.testing.assert_close(scheme.gate(h), scheme.gate(h.double()).float())
    for name, at_infinity in (
        ("backward_euler", 1.0),
        ("implicit_midpoint", 2.0),
        ("radau_iia3", 1.0),
        ("exponential", 1.0),
    ):
        h = torch.tensor([1e30, float("inf")], requires_grad=True)
        gate = resolve_scheme(name).gate(h)
        gate.sum().backward()
        torch.testing.assert_close(gate, torch.full((2,), at_infinity))
        torch.testing.assert_close(h.grad, torch.zeros(2))


def test_names_and_near_matches():
    assert resolve_scheme("euler") is resolve_scheme("forward_euler") is SCHEMES["forward_euler"]
    assert resolve_scheme("implicit_euler") is SCHEMES["backward_euler"]
    assert resolve_scheme("rk4") is resolve_scheme(TABLEAUS["rk4"])
    scheme = theta(0.25)
    assert resolve_scheme(scheme) is scheme
    assert repr(scheme) == "Rational('theta(0.25)')"
    with pytest.raises(ValueError, match="unknown scheme 'backwards_euler'; did you mean backward_euler"):
        resolve_scheme("backwards_euler")
    with pytest.raises(ValueError, match="scheme must be a name"):
        resolve_scheme(0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"theta must lie in \[0, 1\]"):
        resolve_scheme("theta(1.5)")
    with pytest.raises(ValueError, match=r"square matrices \[.., n, n\], got \[3\]"):
        scheme.R_matrix(torch.zeros(3))
    with pytest.raises(ValueError, match="must begin with 1"):
        Rational("wrong", (2.0,))
