"""The delta block against Deep Delta Learning's equations written out, and the properties of its operator."""

import math

import pytest
import torch
from torch import Tensor

from odenets.blocks import Delta
from odenets.fields import MLP
from odenets.flows import resolve_scheme
from tests.blocks.catalog import assert_same_with_gradients, shaken

D = 5
GATES = {  # of the logit z, at h = 1 and at h = 1/2
    "implicit_midpoint": (lambda z: 2 * torch.sigmoid(z), lambda z: z.exp() / (1 + z.exp() / 2)),
    "forward_euler": (lambda z: 2 * torch.sigmoid(z), torch.sigmoid),
    "backward_euler": (torch.sigmoid, lambda z: z.exp() / (2 + z.exp())),
    "exponential": (torch.sigmoid, lambda z: 1 - (1 + z.exp()) ** -0.5),
}


def make(**options) -> Delta:
    torch.manual_seed(1)
    block = Delta(MLP(D, 8, time="concat"), D, **options).double()
    shaken(block)
    return block


def state(block: Delta, tokens: tuple[int, ...] = (2, 6)) -> Tensor:
    d_v = block.flow.coefficients.value.out_features
    return torch.randn(*tokens, D, d_v, dtype=torch.float64, requires_grad=True)


def compressed(block: Delta, x: Tensor) -> Tensor:
    """Compress(X) [B, T, d], tap by tap and channel by channel."""
    compress = block.flow.coefficients.compress
    if compress is None:
        return x[..., 0]
    if not hasattr(compress, "read"):
        return torch.stack([x[..., i, :] @ compress.weight[i] for i in range(D)], -1)
    d_v = x.shape[-1]
    rows = []
    for token in range(x.shape[1]):
        total = torch.zeros(x.shape[0], D, dtype=x.dtype)
        for back in range(min(4, token + 1)):
            taps = compress.weight[:, 3 - back].reshape(D, d_v)
            total = total + (x[:, token - back] * taps * compress.read).sum(-1)
        rows.append(total)
    return torch.stack(rows, 1)


def parts(block: Delta, t: float, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """k, v and the gate's logit z, by the paper's equations."""
    m = block.flow.coefficients
    c = compressed(block, x)
    c = m.norm.weight * c / (c.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    raw = m.branch.branch(t, c)
    k = raw / (raw.square().sum(-1, keepdim=True) + 1e-10).sqrt()
    if m.rate.hidden is None:
        z = c @ m.rate.out.weight[0] + m.rate.out.bias
    else:
        z = (c @ m.rate.hidden.weight.T + m.rate.hidden.bias).tanh() @ m.rate.out.weight[0] + m.rate.out.bias
    return k, c @ m.value.weight.T, z


def ddl(x: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    """(I - beta k k^T) X + beta k v^T with the matrices formed."""
    outer = k[..., :, None] * k[..., None, :]
    beta = beta[..., None, None]
    return (torch.eye(D, dtype=x.dtype) - beta * outer) @ x + beta * (k[..., :, None] * v[..., None, :])


@pytest.mark.parametrize("scheme", GATES)
@pytest.mark.parametrize("h", [1.0, 0.5])
def test_step_is_deep_delta_learning_with_the_schemes_gate(scheme: str, h: float):
    block = make(scheme=scheme)
    x = state(block)
    k, v, z = parts(block, 0.3, x)
    beta = GATES[scheme][h != 1](z)
    leaves = [x, *block.parameters()]
    assert_same_with_gradients(block(0.3, x, h), ddl(x, k, v, beta), leaves)
    torch.testing.assert_close(block.gate(0.3, x, h), beta, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("compress", ["channel", "token"])
@pytest.mark.parametrize("gate_hidden", [None, 3])
def test_matrix_state_follows_the_paper(compress: str, gate_hidden: int | None):
    block = make(value_channels=4, compress=compress, gate_hidden=gate_hidden)
    x = state(block)
    k, v, z = parts(block, 0.3, x)
    assert_same_with_gradients(block(0.3, x, 1.0), ddl(x, k, v, 2 * torch.sigmoid(z)), [x, *block.flow.parameters()])
    assert tuple(v.shape) == (2, 6, 4)


def test_write_only_control_keeps_the_gate_and_erases_nothing():
    block = make(value_channels=3, write_only=True)
    x = state(block)
    k, v, z = parts(block, 0.3, x)
    beta = 2 * torch.sigmoid(z)
    expected = x + beta[..., None, None] * k[..., :, None] * v[..., None, :]
    assert_same_with_gradients(block(0.3, x, 1.0), expected, [x, *block.flow.parameters()])
    torch.testing.assert_close(block.flow.freeze(0.3, x).linear.matrix(), torch.zeros(2, 6, D, D, dtype=x.dtype))


def test_exact_coefficient_uses_the_norm_of_k():
    block = make(coefficient="exact")
    x = state(block)
    with torch.no_grad():  # the branch nearly silent: |k| well below 1 by the guard
        block.flow.coefficients.branch.branch.out.weight.mul_(1e-6)
        block.flow.coefficients.branch.branch.out.bias.mul_(1e-6)
    k, _, z = parts(block, 0.3, x)
    kappa = k.square().sum(-1)
    assert kappa.max() < 0.9
    h_rate = 2 * z.exp()
    torch.testing.assert_close(block.gate(0.3, x, 1.0), h_rate / (1 + h_rate * kappa / 2), rtol=1e-12, atol=1e-12)


def test_half_frozen_step_takes_k_and_v_from_the_predicted_middle():
    block = make(step="half_frozen", value_channels=2, coefficient="exact")
    x = state(block)
    scheme = resolve_scheme("implicit_midpoint")

    def exact_gate(k: Tensor, z: Tensor, h: float) -> Tensor:
        kappa = k.square().sum(-1)
        return (1 - scheme.R(-h * 2 * z.exp() * kappa)) / kappa

    k, v, z = parts(block, 0.3, x)
    middle = ddl(x, k, v, exact_gate(k, z, 0.25))
    k, v, z = parts(block, 0.55, middle)
    expected = ddl(x, k, v, exact_gate(k, z, 0.5))
    assert_same_with_gradients(block(0.3, x, 0.5), expected, [x, *block.flow.parameters()])


def test_eigenvalue_along_k_is_R_and_the_others_are_1():
    for scheme in ("implicit_midpoint", "forward_euler", "backward_euler", "exponential", "rk4", "radau_iia3"):
        block = make(scheme=scheme)
        x = torch.randn(D, 1, dtype=torch.float64)
        frozen = block.flow.freeze(0.3, x)
        columns = [
            frozen.linear.propagate(block.scheme, 0.7, e[:, None])[:, 0] for e in torch.eye(D, dtype=torch.float64)
        ]
        eigenvalues = torch.linalg.eigvalsh(torch.stack(columns, 1))
        rate = block.coefficients(0.3, x).rate
        expected = torch.cat([block.scheme.R(-0.7 * rate).reshape(1), torch.ones(D - 1, dtype=torch.float64)])
        torch.testing.assert_close(eigenvalues, expected.sort().values, rtol=0, atol=1e-9)  # |k|^2 = 1 - 1e-10


def test_forward_euler_with_h_2_is_a_householder_reflection():
    block = make(scheme="forward_euler")
    with torch.no_grad():  # rate 1 exactly: 2 sigmoid(0)
        block.flow.coefficients.rate.out.weight.zero_()
        block.flow.coefficients.rate.out.bias.zero_()
    x = torch.randn(D, 1, dtype=torch.float64)
    frozen = block.flow.freeze(0.3, x)
    columns = [frozen.linear.propagate(block.scheme, 2.0, e[:, None])[:, 0] for e in torch.eye(D, dtype=torch.float64)]
    H = torch.stack(columns, 1)
    torch.testing.assert_close(H, H.mT, rtol=0, atol=1e-14)
    torch.testing.assert_close(H @ H, torch.eye(D, dtype=torch.float64), rtol=0, atol=1e-8)
    assert torch.linalg.det(H).item() == pytest.approx(-1, abs=1e-8)


def test_beta_1_overwrites_and_beta_0_is_the_identity():
    block = make(value_channels=3)
    x = state(block).detach()
    with torch.no_grad():
        block.flow.coefficients.rate.out.weight.zero_()
        block.flow.coefficients.rate.out.bias.zero_()
    k, v, _ = block.coefficients(0.3, x)
    after = block(0.3, x, 1.0)
    torch.testing.assert_close((k[..., None] * after).sum(-2), v, rtol=0, atol=1e-8)
    with torch.no_grad():
        block.flow.coefficients.rate.out.bias.fill_(-100.0)
    torch.testing.assert_close(block(0.3, x, 1.0), x, rtol=0, atol=1e-30)


def test_a_silent_branch_moves_nothing_and_has_finite_gradients():
    block = Delta(MLP(D, out_scale=0), D)
    x = torch.randn(2, D, 1, requires_grad=True)
    y = block(0.0, x, 1.0)
    torch.testing.assert_close(y, x, rtol=0, atol=0)
    y.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in block.parameters() if p.grad is not None)


def test_initialisation_is_the_papers():
    torch.manual_seed(0)
    block = Delta(MLP(16), 16, value_channels=4, compress="token", expand="conv", beta_0=0.5)
    m = block.flow.coefficients
    assert m.rate.out.bias.item() == pytest.approx(math.log(0.25 / 0.75))
    assert Delta(MLP(16), 16).flow.coefficients.rate.out.bias.item() == 0
    x = torch.randn(2, 7, 16)
    lifted = block.lift(x)
    torch.testing.assert_close(lifted, x[..., None].expand(2, 7, 16, 4), rtol=0, atol=0)
    torch.testing.assert_close(m.compress(lifted), x)
    torch.testing.assert_close(block.readout(lifted), x)
    torch.testing.assert_close(Delta(MLP(16), 16, value_channels=4).flow.coefficients.compress(lifted), x)
    # values of both signs, from the normalised input
    v = block.coefficients(0.0, lifted).v
    assert 0.3 < (v > 0).float().mean() < 0.7
    torch.testing.assert_close(block.coefficients(0.0, 100 * lifted).v, v, rtol=1e-4, atol=1e-4)


def test_a_stack_owns_the_weights_of_its_ends_once():
    blocks = [Delta(MLP(4), 4, value_channels=2, expand="conv") for _ in range(3)]
    for n, block in enumerate(blocks):
        block.place(n, 3)
    assert [b.expand is not None for b in blocks] == [True, False, False]
    assert [b.compress is not None for b in blocks] == [False, False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta_0": 2.0}, "0 < beta_0 < 2"),
        ({"value_channels": 0}, "value_channels >= 1"),
        ({"compress": "both"}, "channel, token"),
        ({"coefficient": "best"}, "'paper' or 'exact'"),
        ({"step": "full"}, "frozen, half_frozen"),
        ({"scheme": "implicit_midpiont"}, "implicit_midpoint"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Delta(MLP(4), 4, **options)


def test_a_convolution_over_tokens_refuses_states_without_a_sequence():
    with pytest.raises(ValueError, match="compress='channel'"):
        Delta(MLP(4), 4, value_channels=2, expand="conv").lift(torch.randn(2, 4))
