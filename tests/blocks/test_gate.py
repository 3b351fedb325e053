"""Rates and gates of every scheme against closed forms."""

import math

import pytest
import torch

from odenets.blocks.gate import Rate, rate_from_logits
from odenets.flows import resolve_scheme

Z = torch.linspace(-8, 8, 33, dtype=torch.float64)
SIGMOID = 1 / (1 + (-Z).exp())


@pytest.mark.parametrize(
    ("scheme", "gate"),
    [
        ("implicit_midpoint", 2 * SIGMOID),  # Deep Delta Learning's own
        ("forward_euler", 2 * SIGMOID),
        ("backward_euler", SIGMOID),
        ("exponential", SIGMOID),
        ("theta(0.8)", SIGMOID / 0.8),
    ],
)
def test_gate_at_h_1_is_the_usual_function_of_the_logit(scheme: str, gate: torch.Tensor):
    s = resolve_scheme(scheme)
    torch.testing.assert_close(s.gate(rate_from_logits(s, Z)), gate, rtol=1e-12, atol=1e-12)


def test_gates_that_may_not_overshoot_stay_below_1_and_forward_euler_is_srivastavas():
    euler = resolve_scheme("forward_euler")
    torch.testing.assert_close(euler.gate(rate_from_logits(euler, Z, False)), SIGMOID, rtol=1e-12, atol=1e-12)
    for name in ("implicit_midpoint", "backward_euler", "exponential", "rk4", "rk2", "radau_iia3"):
        scheme = resolve_scheme(name)
        gate = scheme.gate(rate_from_logits(scheme, Z, False))
        assert gate.min() >= 0, name
        assert gate.max() <= 1, name


@pytest.mark.parametrize("scheme", ["implicit_midpoint", "forward_euler", "backward_euler", "exponential", "rk4"])
@pytest.mark.parametrize("logit", [-1e4, -100.0, 100.0, 1e4])
def test_gates_and_their_gradients_are_finite_at_huge_logits(scheme: str, logit: float):
    s = resolve_scheme(scheme)
    z = torch.tensor(logit, requires_grad=True)
    gate = s.gate(0.5 * rate_from_logits(s, z))
    gate.backward()
    assert math.isfinite(gate.item())
    assert math.isfinite(z.grad.item())


def test_logits_are_computed_in_single_precision_even_under_autocast():
    torch.manual_seed(0)
    rate = Rate(16, 3, 0.5, resolve_scheme("exponential"), hidden=5)
    c = torch.randn(7, 16)
    expected = rate.out.weight @ (rate.hidden.weight @ c.T + rate.hidden.bias[:, None]).tanh() + rate.out.bias[:, None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = rate.logits(c)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected.T)
    assert rate(c.bfloat16()).dtype == torch.float32


def test_initial_gates_are_those_of_the_bias():
    torch.manual_seed(0)
    scheme = resolve_scheme("implicit_midpoint")
    rate = Rate(64, 1, math.log(0.3 / 1.7), scheme)
    gates = scheme.gate(rate(torch.nn.functional.rms_norm(torch.randn(500, 64), (64,))))
    assert gates.mean().item() == pytest.approx(0.3, abs=0.02)
    assert gates.std() < 0.1
