"""MLP, Conv and Attention against formulas written with numpy and scipy."""

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d

from odenets.fields import MLP, Attention, Conv


def numbers(module, *names):
    return [module.get_parameter(name).detach().numpy() for name in names]


@pytest.mark.parametrize("time", ["none", "concat"])
def test_mlp_equals_the_numpy_formula(time):
    torch.manual_seed(0)
    field = MLP(3, hidden=5, depth=2, time=time).double()
    x, t = torch.randn(4, 2, 3, dtype=torch.float64), 0.7
    h = x.numpy()
    for layer in [*field.layers, field.out]:
        w, b = numbers(layer, "weight", "bias")
        if time == "concat":
            h = np.concatenate([h, np.full((4, 2, 1), t)], axis=-1)
        h = h @ w.T + b
        if layer is not field.out:
            h = np.tanh(h)
    np.testing.assert_allclose(field(t, x).detach().numpy(), h, rtol=1e-12)


def test_modulation_equals_the_numpy_formula_away_from_its_start():
    torch.manual_seed(0)
    field = MLP(3, hidden=5, depth=1, time="modulate").double()
    torch.nn.init.normal_(field.get_parameter("modulations.0.out.weight"))
    x, t = torch.randn(4, 3, dtype=torch.float64), 0.7
    angles = t * np.pi / 2 * 2.0 ** np.arange(4)
    e = np.concatenate([[t], np.sin(angles), np.cos(angles)])
    w, b, w_out = numbers(field.modulations[0], "embed.weight", "embed.bias", "out.weight")
    z = w @ e + b
    scale, shift = np.split(w_out @ (z / (1 + np.exp(-z))), 2)
    w, b, w_out, b_out = numbers(field, "layers.0.weight", "layers.0.bias", "out.weight", "out.bias")
    h = np.tanh((x.numpy() @ w.T + b) * (1 + scale) + shift) @ w_out.T + b_out
    # The frequencies are stored in float32 and pi/2 is rounded there, hence 1e-6.
    np.testing.assert_allclose(field(t, x).detach().numpy(), h, rtol=2e-6)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda time: MLP(3, time=time), (4, 3)),
        (lambda time: Conv(4, time=time, norm="group"), (2, 4, 5, 5)),
        (lambda time: Attention(4, 2, time=time), (2, 3, 4)),
    ],
)
def test_modulation_is_the_identity_at_initialisation(make, shape):
    torch.manual_seed(0)
    modulated, plain = make("modulate"), make("none")
    plain.load_state_dict(modulated.state_dict(), strict=False)
    x = torch.randn(shape)
    for t in (0.0, 0.3, 1.0):
        torch.testing.assert_close(modulated(t, x), plain(t, x), rtol=0, atol=0)


@pytest.mark.parametrize("time", ["none", "concat"])
def test_conv_equals_scipy_correlation(time):
    torch.manual_seed(0)
    field = Conv(2, hidden=3, time=time).double()
    x, t = torch.randn(1, 2, 5, 6, dtype=torch.float64), 0.7

    def convolve(layer, h):
        w, b = numbers(layer, "weight", "bias")
        if time == "concat":
            h = np.concatenate([h, np.full((1, *h.shape[1:]), t)])
        return np.stack([sum(correlate2d(c, k, mode="same") for c, k in zip(h, wo)) + bo for wo, bo in zip(w, b)])

    expected = convolve(field.out, np.tanh(convolve(field.conv, x[0].numpy())))
    np.testing.assert_allclose(field(t, x)[0].detach().numpy(), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_equals_a_softmax_written_out_per_position(causal, fused):
    torch.manual_seed(0)
    length, dim, heads = 5, 6, 3
    field = Attention(dim, heads, causal=causal, fused=fused).double()
    x = torch.randn(1, length, dim, dtype=torch.float64)
    w, b, w_out, b_out = numbers(field, "qkv.weight", "qkv.bias", "out.weight", "out.bias")
    q, k, v = np.split(x[0].numpy() @ w.T + b, 3, axis=-1)
    mixed, size = np.zeros((length, dim)), dim // heads
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(length):
            seen = range(i + 1) if causal else range(length)
            weights = np.exp([q[i, part] @ k[j, part] / np.sqrt(size) for j in seen])
            mixed[i, part] = weights @ v[list(seen), part] / weights.sum()
    np.testing.assert_allclose(field(0.0, x)[0].detach().numpy(), mixed @ w_out.T + b_out, rtol=1e-12)


def test_causal_attention_lets_no_position_act_on_an_earlier_one():
    torch.manual_seed(0)
    field = Attention(8, 2, causal=True, time="modulate")
    x = torch.randn(2, 6, 8)
    for position in range(6):
        changed = x.clone()
        changed[:, position] += 1
        difference = (field(0.5, changed) - field(0.5, x)).abs().amax(dim=(0, 2))
        assert (difference[:position] == 0).all()
        assert (difference[position:] > 1e-4).all()


def test_explicit_attention_has_second_derivatives_that_match_finite_differences():
    torch.manual_seed(0)
    field = Attention(4, 2, fused=False).double()
    x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: field(0.0, x), (x,))


@pytest.mark.parametrize(
    "make", [lambda: MLP(3, out_scale=0), lambda: Conv(3, out_scale=0), lambda: Attention(3, 1, out_scale=0)]
)
def test_out_scale_zero_gives_the_zero_field(make):
    field = make()
    shape = {"MLP": (2, 3), "Conv": (2, 3, 4, 4), "Attention": (2, 5, 3)}[type(field).__name__]
    assert field(0.0, torch.randn(shape)).abs().max() == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MLP(3)(0.0, torch.zeros(2, 4)), r"x \[..., 3\], got \[2, 4\]; build it with dim=4"),
        (lambda: MLP(3, time="cat"), r"time= takes one of .*'concat'.* got 'cat'"),
        (lambda: MLP(3, activation="tan"), r"activation= takes one of .*'tanh'.* got 'tan'"),
        (lambda: MLP(3, depth=-1), r"depth >= 0, got .*depth=-1"),
        (lambda: Conv(3, kernel_size=2), r"odd kernel_size, got 2"),
        (lambda: Conv(3, norm="batch"), r"norm= takes one of .*'group'.* got 'batch'"),
        (lambda: Conv(3)(0.0, torch.zeros(3, 8, 8)), r"x \[B, 3, H, W\], got \[3, 8, 8\]"),
        (lambda: Attention(6, 4), r"heads to divide dim, got dim=6, heads=4"),
        (lambda: Attention(6, 2)(0.0, torch.zeros(2, 3, 5)), r"x \[..., L, 6\], got \[2, 3, 5\]"),
    ],
)
def test_wrong_input_is_an_error_that_says_what_came_and_what_is_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
