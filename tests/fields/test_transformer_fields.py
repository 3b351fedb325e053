"""Rotary attention and SwiGLU against naive references: complex numbers, explicit sums, one position at a time."""

import cmath
import math

import pytest
import torch

from odenets.fields import Combined, RotaryAttention, SwiGLU
from odenets.fields.rotary_attention import rotate, rotation


def normed(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt() * weight


def turned(vector, position, base):
    """Features 2m, 2m+1 as one complex number times e^(i position base^(-2m/d))."""
    d = len(vector)
    numbers = [complex(vector[2 * m], vector[2 * m + 1]) for m in range(d // 2)]
    numbers = [z * cmath.exp(1j * position * base ** (-2 * m / d)) for m, z in enumerate(numbers)]
    return torch.tensor([part for z in numbers for part in (z.real, z.imag)], dtype=torch.float64)


def test_rotation_is_multiplication_by_complex_phases():
    torch.manual_seed(0)
    x = torch.randn(7, 6, dtype=torch.float64)
    expected = torch.stack([turned(row.tolist(), i, 100.0) for i, row in enumerate(x)])
    torch.testing.assert_close(rotate(x, rotation(x, 100.0)), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_the_causal_softmax_of_turned_features(fused):
    torch.manual_seed(0)
    dim, heads, L, base = 8, 2, 5, 50.0
    field = RotaryAttention(dim, heads, base=base, fused=fused).double()
    torch.nn.init.uniform_(field.norm.weight, 0.5, 1.5)
    x = torch.randn(L, dim, dtype=torch.float64)
    c = normed(x, field.norm.weight)
    q, k, v = (c @ w.T for w in field.qkv.weight.chunk(3))
    rows = []
    for i in range(L):
        parts = []
        for head in range(heads):
            cut = slice(head * 4, head * 4 + 4)
            qi = turned(q[i, cut].tolist(), i, base)
            scores = [float(qi @ turned(k[j, cut].tolist(), j, base)) / math.sqrt(4) for j in range(i + 1)]
            weights = [math.exp(s) / sum(math.exp(r) for r in scores) for s in scores]
            parts.append(sum(w * v[j, cut] for j, w in enumerate(weights)))
        rows.append(torch.cat(parts) @ field.out.weight.T)
    torch.testing.assert_close(field(0.0, x[None])[0], torch.stack(rows), rtol=1e-10, atol=1e-12)


def test_scores_depend_on_distance_only():
    torch.manual_seed(0)
    q, k = torch.randn(2, 16, 4, dtype=torch.float64)
    k[10:], q[10:] = k[:6].clone(), q[:6].clone()  # the same six tokens ten positions later
    turn = rotation(q, 10000.0)
    products = rotate(q, turn) @ rotate(k, turn).mT
    torch.testing.assert_close(products[10:, 10:], products[:6, :6], rtol=1e-12, atol=1e-12)


def test_swiglu_is_its_formula():
    torch.manual_seed(0)
    field = SwiGLU(6, 10).double()
    torch.nn.init.uniform_(field.norm.weight, 0.5, 1.5)
    x = torch.randn(4, 3, 6, dtype=torch.float64)
    c = normed(x, field.norm.weight)
    g = c @ field.gate.weight.T
    expected = (g / (1 + (-g).exp()) * (c @ field.up.weight.T)) @ field.out.weight.T
    torch.testing.assert_close(field(0.0, x), expected, rtol=1e-12, atol=1e-12)


def test_the_default_width_has_the_parameters_of_a_plain_mlp():
    field = SwiGLU(384)
    assert field.gate.out_features == 1024  # 3 * 1024 = 8 * 384
    assert SwiGLU(128).gate.out_features == 344


@pytest.mark.parametrize("make", [lambda n: RotaryAttention(256, 4, residuals=n), lambda n: SwiGLU(256, residuals=n)])
def test_initial_output_scales_with_the_square_root_of_the_depth(make):
    torch.manual_seed(0)
    x = torch.randn(2, 1, 256)  # one position: attention passes the value on
    single, deep = make(1)(0.0, x).std().item(), make(16)(0.0, x).std().item()
    assert 3.4 < single / deep < 4.6
    assert 0.2 < single < 1.3


def test_combined_branches_add_what_a_stack_of_blocks_adds():
    torch.manual_seed(0)
    a, m = RotaryAttention(8, 2), SwiGLU(8)
    x = torch.randn(2, 5, 8)
    after = x + a(0.0, x)
    torch.testing.assert_close(x + Combined([a, m])(0.0, x), after + m(0.0, after))
    torch.testing.assert_close(Combined([a, m], "parallel")(0.0, x), a(0.0, x) + m(0.0, x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RotaryAttention(12, 4), "even integer, got dim=12, heads=4"),
        (lambda: RotaryAttention(8, 2)(0.0, torch.zeros(3, 7)), r"x \[..., L, 8\], got \[3, 7\]"),
        (lambda: RotaryAttention(8, 2, residuals=0), "residuals >= 1, got 0"),
        (lambda: SwiGLU(8, hidden=0), "hidden=0"),
        (lambda: SwiGLU(8)(0.0, torch.zeros(3, 7)), r"x \[..., 8\], got \[3, 7\]"),
        (lambda: Combined([]), "at least one branch"),
        (lambda: Combined([SwiGLU(8)], "both"), "'both'"),
    ],
)
def test_wrong_input_is_an_error_that_says_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_positions_beyond_256_are_told_apart_in_half_precision():
    x = torch.ones(1000, 8, dtype=torch.bfloat16)
    wide = rotation(x.float(), 10000.0)
    for narrow, exact in zip(rotation(x, 10000.0), wide):
        assert (narrow.float() - exact).abs().max() < 2**-8
