"""mHC against the equations of arXiv:2512.24880 written out, and its generator form against dense exponentials."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from odenets.blocks import ManifoldHyperConnections, Residual
from odenets.fields import MLP
from tests.blocks.catalog import assert_same_with_gradients, shaken

N, C = 4, 5


def make(n: int = N, **options) -> ManifoldHyperConnections:
    torch.manual_seed(0)
    block = ManifoldHyperConnections(MLP(C, 8, time="concat"), C, streams=n, **options).double()
    shaken(block)
    return block


def logits(block: ManifoldHyperConnections, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    p = block.flow.coefficients
    n = block.streams
    flat = x.reshape(*x.shape[:-2], -1)
    raw = (flat / (flat.square().mean(-1, keepdim=True) + 1e-20).sqrt()) @ p.phi
    alpha = torch.cat([a.expand(size) for a, size in zip(p.alpha, (n, n, raw.shape[-1] - 2 * n))])
    scaled = alpha * raw + p.b
    return scaled[..., :n], scaled[..., n : 2 * n], scaled[..., 2 * n :]


def sinkhorn(m: Tensor) -> Tensor:
    """exp, then 20 times columns and rows, as the paper writes it."""
    m = m.exp()
    for _ in range(20):
        m = m / m.sum(-2, keepdim=True)
        m = m / m.sum(-1, keepdim=True)
    return m


def generator(rates: Tensor, permutations: list[tuple[int, ...]], n: int) -> Tensor:
    eye = torch.eye(n, dtype=rates.dtype)
    return torch.stack([rates[..., k, None, None] * (eye[list(p)] - eye) for k, p in enumerate(permutations)]).sum(0)


@pytest.mark.parametrize("h", [1.0, 0.3])
def test_sinkhorn_step_is_the_papers_layer(h: float):
    block = make()
    x = torch.randn(2, 3, N, C, dtype=torch.float64, requires_grad=True)
    pre, post, res = logits(block, x)
    H_pre, H_post, H_res = pre.sigmoid(), 2 * post.sigmoid(), sinkhorn(res.reshape(2, 3, N, N))
    f = block.flow.branch.branch(0.3, (H_pre[..., None] * x).sum(-2))
    expected = H_res @ x + h * H_post[..., None] * f[..., None, :]
    assert_same_with_gradients(block(0.3, x, h), expected, [x, *block.parameters()])
    torch.testing.assert_close(block.step_matrix(0.3, x, h), H_res)


PERMUTATIONS = {
    "all": list(itertools.permutations(range(N)))[1:],
    "cyclic": [(1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2)],
    "laplacian": [(1, 0, 2, 3), (2, 1, 0, 3), (3, 1, 2, 0), (0, 2, 1, 3), (0, 3, 2, 1), (0, 1, 3, 2)],
}
EYE = torch.eye(N, dtype=torch.float64)
STEPS = {  # R(Z), Q(Z) for matrices Z
    "forward_euler": lambda z: (EYE + z, EYE.expand_as(z)),
    "backward_euler": lambda z: (torch.linalg.inv(EYE - z),) * 2,
    "implicit_midpoint": lambda z: (torch.linalg.inv(EYE - z / 2) @ (EYE + z / 2), torch.linalg.inv(EYE - z / 2)),
    "exponential": lambda z: (torch.linalg.matrix_exp(z), _phi1(z)),
}


def _phi1(z: Tensor) -> Tensor:
    big = torch.cat([torch.cat([z, EYE.expand_as(z)], -1), torch.zeros(*z.shape[:-2], N, 2 * N, dtype=z.dtype)], -2)
    return torch.linalg.matrix_exp(big)[..., :N, N:]


@pytest.mark.parametrize("scheme", STEPS)
@pytest.mark.parametrize("permutations", PERMUTATIONS)
def test_generator_step_is_the_schemes_step_of_the_stream_flow(scheme: str, permutations: str):
    block = make(parametrisation="generator", scheme=scheme, permutations=permutations)
    x = torch.randn(2, 3, N, C, dtype=torch.float64, requires_grad=True)
    pre, post, res = logits(block, x)
    G = generator((1 + res.exp()).log(), PERMUTATIONS[permutations], N)
    R, Q = STEPS[scheme](0.4 * G)
    f = block.flow.branch.branch(0.3, (pre.sigmoid()[..., None] * x).sum(-2))
    expected = R @ x + 0.4 * (Q @ (2 * post.sigmoid())[..., None]) * f[..., None, :]
    assert_same_with_gradients(block(0.3, x, 0.4), expected, [x, *block.parameters()])


def test_half_frozen_generator_step_takes_its_coefficients_from_the_middle():
    block = make(parametrisation="generator", scheme="backward_euler", step="half_frozen")
    frozen = make(parametrisation="generator", scheme="backward_euler")
    x = torch.randn(2, N, C, dtype=torch.float64)
    middle = frozen(0.3, x, 0.2)
    linear, forcing = block.flow.freeze(0.5, middle)
    R, Q = STEPS["backward_euler"](0.4 * linear.matrix())
    expected = R @ x + 0.4 * Q @ (forcing.u[..., None] * forcing.v[..., None, :])
    torch.testing.assert_close(block(0.3, x, 0.4), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scheme", ["backward_euler", "exponential"])
@pytest.mark.parametrize("h", [0.1, 1.0, 30.0])
def test_generator_step_is_doubly_stochastic_for_every_h(scheme: str, h: float):
    block = make(parametrisation="generator", scheme=scheme)
    torch.nn.init.constant_(block.flow.coefficients.alpha, 2.0)
    H = block.step_matrix(0.0, torch.randn(50, N, C, dtype=torch.float64), h)
    ones = torch.ones(50, N, dtype=H.dtype)
    assert H.min() >= 0
    torch.testing.assert_close(H.sum(-1), ones, rtol=0, atol=1e-12)
    torch.testing.assert_close(H.sum(-2), ones, rtol=0, atol=1e-12)
    assert torch.linalg.eigvals(H).abs().max() < 1 + 1e-12
    assert (H - EYE).abs().max() > 0.01


def test_sinkhorn_rows_are_exact_and_columns_carry_the_truncation():
    x = torch.randn(50, N, C, dtype=torch.float64)
    ones = torch.ones(50, N, dtype=torch.float64)
    errors = []
    for iterations in (20, 5000):
        block = make(iterations=iterations)
        torch.nn.init.constant_(block.flow.coefficients.alpha, 2.0)  # logits of standard deviation 2 or more
        H = block.step_matrix(0.0, x)
        assert H.min() >= 0
        torch.testing.assert_close(H.sum(-1), ones, rtol=0, atol=1e-12)
        errors.append((H.sum(-2) - 1).abs().max().item())
    assert 1e-3 < errors[0] < 0.2
    assert errors[1] < errors[0] / 50
    untrained = ManifoldHyperConnections(MLP(C), C).double().step_matrix(0.0, x)
    torch.testing.assert_close(untrained.sum(-2), ones, rtol=0, atol=1e-5)


def test_forward_euler_generator_with_h_1_is_the_sinkhorn_form():
    block = make(parametrisation="generator", scheme="forward_euler")
    x = torch.randn(3, N, C, dtype=torch.float64)
    G = block.coefficients(0.3, x).mixing
    torch.testing.assert_close(block.step_matrix(0.3, x, 1.0), EYE + G)
    sinkhorn_block = make()
    torch.testing.assert_close(sinkhorn_block.step_matrix(0.3, x), EYE + sinkhorn_block.coefficients(0.3, x).mixing)


@pytest.mark.parametrize("parametrisation", ["sinkhorn", "generator"])
@pytest.mark.parametrize("which", ["pre", "post", "res", "phi", "alpha"])
def test_every_coefficient_acts_on_the_output(parametrisation: str, which: str):
    block = make(parametrisation=parametrisation)
    x = torch.randn(2, 3, N, C, dtype=torch.float64)
    before = block(0.3, x, 1.0)
    p = block.flow.coefficients
    with torch.no_grad():
        if which in ("phi", "alpha"):
            getattr(p, which).mul_(0)
        else:
            start = {"pre": 0, "post": N, "res": 2 * N}[which]
            p.b[start + (1 if which == "res" else 0)] += 2
    assert (block(0.3, x, 1.0) - before).abs().max() > 1e-3


@pytest.mark.parametrize("parametrisation", ["sinkhorn", "generator"])
def test_initial_values(parametrisation: str):
    torch.manual_seed(0)
    block = ManifoldHyperConnections(MLP(64), 64, parametrisation=parametrisation)
    p = block.flow.coefficients
    assert p.alpha.tolist() == pytest.approx([0.01] * 3)
    assert p.b[:N].tolist() == pytest.approx([math.log((1 / N) / (1 - 1 / N))] * N)
    assert (p.b[N : 2 * N] == 0).all()
    assert p.phi.std().item() == pytest.approx(1 / 16, rel=0.1)
    x = torch.randn(7, N, 64)
    mixing, read, write = block.coefficients(0.0, x)
    torch.testing.assert_close(read, torch.full((7, N), 1 / N), rtol=0, atol=0.02)
    torch.testing.assert_close(write, torch.ones(7, N), rtol=0, atol=0.05)
    H = block.step_matrix(0.0, x)
    torch.testing.assert_close(H, torch.eye(N).expand(7, N, N), rtol=0, atol=0.02)
    if parametrisation == "sinkhorn":
        torch.testing.assert_close(p.b[2 * N :].reshape(N, N), 10 * torch.eye(N))
    else:
        torch.testing.assert_close(mixing.diagonal(dim1=-2, dim2=-1), torch.full((7, N), -0.01), rtol=0.05, atol=0)


@pytest.mark.parametrize("parametrisation", ["sinkhorn", "generator"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_without_alpha_a_stack_is_the_residual_net(parametrisation: str, dtype: torch.dtype, tolerance: float):
    torch.manual_seed(0)
    x = torch.randn(2, 3, C, dtype=dtype)
    state, residual = None, x
    for _ in range(6):
        branch, norm = MLP(C, 8), torch.nn.RMSNorm(C)
        block = ManifoldHyperConnections(branch, C, norm=norm, parametrisation=parametrisation).to(dtype)
        torch.nn.init.zeros_(block.flow.coefficients.alpha)
        state = block(0.1, block.lift(x) if state is None else state, 0.5)
        residual = Residual(branch, norm)(0.1, residual, 0.5)
    torch.testing.assert_close(block.readout(state), residual, rtol=tolerance, atol=tolerance)


def test_mean_of_streams_is_moved_by_the_forcing_alone():
    block = make(parametrisation="generator", scheme="exponential")
    x = torch.randn(3, N, C, dtype=torch.float64)
    _, forcing = block.flow.freeze(0.3, x)
    moved = block(0.3, x, 0.8).mean(-2) - x.mean(-2)
    torch.testing.assert_close(moved, 0.8 * forcing.u.mean(-1, keepdim=True) * forcing.v)


def test_backward_euler_is_undone_without_a_solve():
    block = make(parametrisation="generator")
    x = torch.randn(3, N, C, dtype=torch.float64)
    linear, forcing = block.flow.freeze(0.3, x)
    after = block(0.3, x, 2.0)
    before = after - 2.0 * (linear.matrix() @ after + forcing.u[..., None] * forcing.v[..., None, :])
    torch.testing.assert_close(before, x, rtol=0, atol=1e-12)


def test_huge_logits_and_zero_states_stay_finite():
    for parametrisation in ("sinkhorn", "generator"):
        block = ManifoldHyperConnections(MLP(C), C, parametrisation=parametrisation)
        with torch.no_grad():
            block.flow.coefficients.b.mul_(30)
        x = torch.zeros(2, N, C, requires_grad=True)
        y = block(0.0, x, 1.0)
        y.sum().backward()
        assert torch.isfinite(y).all()
        assert torch.isfinite(x.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in block.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "exponential"}, "H_res is the step itself"),
        ({"step": "half_frozen"}, "H_res is the step itself"),
        ({"parametrisation": "birkhoff"}, "sinkhorn, generator"),
        ({"parametrisation": "generator", "permutations": "some"}, "all, cyclic"),
        ({"streams": 0}, "streams >= 1"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ManifoldHyperConnections(MLP(C), C, **options)
