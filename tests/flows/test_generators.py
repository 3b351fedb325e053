"""Generators on streams: when a scheme's step is doubly stochastic; the Sinkhorn projection."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from odenets.flows import resolve_scheme
from odenets.flows.linear import (
    Generator,
    cfl_limit,
    check_generator,
    doubly_stochastic_error,
    generator_basis,
    generator_from_rates,
    rates_count,
    sinkhorn,
)

F64 = torch.float64


def draw(n, kind="all", samples=200, seed=0):
    torch.manual_seed(seed)
    basis = generator_basis(n, kind, F64)
    return generator_from_rates(torch.randn(samples, len(basis), dtype=F64).mul(2).exp(), basis)


def is_doubly_stochastic(p, tolerance=1e-11):
    sums = torch.cat([p.sum(-1) - 1, p.sum(-2) - 1], dim=-1).abs().amax(-1)
    return (sums < tolerance) & (p.amin((-1, -2)) > -tolerance)


@pytest.mark.parametrize("kind", ["all", "cyclic", "transpositions"])
@pytest.mark.parametrize("n", [2, 3, 4])
def test_every_basis_gives_generators(kind, n):
    assert len(generator_basis(n, kind)) == rates_count(n, kind)
    g = draw(n, kind)
    check_generator(g, 1e-11)
    if kind == "transpositions":  # minus the Laplacian of a weighted graph
        torch.testing.assert_close(g, g.mT)
        assert torch.linalg.eigvalsh(g).max() < 1e-11
    torch.testing.assert_close(Generator(g).cfl_limit, 1 / g.diagonal(dim1=1, dim2=2).abs().amax(-1))


def test_the_cone_of_all_permutations_holds_every_generator():
    """Birkhoff: I + hG is a mixture of permutations for h within the limit; nonnegative least squares finds it."""
    import scipy.optimize

    torch.manual_seed(0)
    basis = generator_basis(4, "all", F64)
    p = sinkhorn(torch.randn(4, 4, dtype=F64), 200)
    g = p - torch.eye(4, dtype=F64)
    rates, residual = scipy.optimize.nnls(basis.flatten(1).T.numpy(), g.flatten().numpy())
    assert residual < 1e-10
    torch.testing.assert_close(generator_from_rates(torch.from_numpy(rates), basis), g, atol=1e-10, rtol=0)


def test_forward_euler_is_doubly_stochastic_exactly_up_to_the_limit():
    g = draw(4)
    limit = cfl_limit(g)[:, None, None]
    scheme = resolve_scheme("forward_euler")
    for fraction in (0.01, 0.5, 1.0):
        assert is_doubly_stochastic(scheme.R_matrix(fraction * limit * g)).all()
    assert not is_doubly_stochastic(scheme.R_matrix(1.001 * limit * g)).any()


@pytest.mark.parametrize("kind", ["all", "cyclic", "transpositions"])
def test_backward_euler_and_the_exponential_are_doubly_stochastic_for_every_step(kind):
    g = draw(4, kind)
    limit = cfl_limit(g)[:, None, None]
    for h in (0.1, 1.0, 10.0, 1000.0):
        for name in ("backward_euler", "exponential"):
            assert is_doubly_stochastic(resolve_scheme(name).R_matrix(h * limit * g), 1e-10).all(), (name, h)


def test_the_backward_euler_step_is_undone_without_a_solve():
    torch.manual_seed(0)
    g, x, h = draw(4, samples=20), torch.randn(20, 4, 7, dtype=F64), 0.3
    y = Generator(g).propagate(resolve_scheme("backward_euler"), h, x)
    torch.testing.assert_close(y - h * (g @ y), x, rtol=1e-11, atol=1e-11)


def test_cayley_is_doubly_stochastic_up_to_twice_the_limit_and_no_further_for_some():
    cayley = resolve_scheme("cayley")
    for n, kind in ((2, "all"), (4, "all"), (4, "cyclic"), (4, "transpositions")):
        g = draw(n, kind)
        assert is_doubly_stochastic(cayley.R_matrix(2 * cfl_limit(g)[:, None, None] * g)).all()
    n = 40  # a complete graph: the best constant free of n is approached as n grows
    complete = (torch.ones(n, n, dtype=F64) - n * torch.eye(n, dtype=F64)) / (n - 1)
    assert is_doubly_stochastic(cayley.R_matrix(2.0 * complete))
    assert not is_doubly_stochastic(cayley.R_matrix(2.2 * complete))
    assert is_doubly_stochastic(resolve_scheme("backward_euler").R_matrix(2.2 * complete))


def test_the_mean_over_streams_is_conserved_and_no_stream_leaves_their_range():
    torch.manual_seed(0)
    g, x = draw(4, samples=50), torch.randn(50, 4, 5, dtype=F64)
    for name in ("forward_euler", "backward_euler", "exponential", "rk4", "radau_iia3"):
        y = Generator(g).propagate(resolve_scheme(name), 0.01, x)
        torch.testing.assert_close(y.mean(1), x.mean(1), rtol=1e-12, atol=1e-12)
    y = Generator(g).propagate(resolve_scheme("backward_euler"), 100.0, x)
    assert (y <= x.amax(1, keepdim=True) + 1e-10).all()
    assert (y >= x.amin(1, keepdim=True) - 1e-10).all()


def test_wrong_generators_and_bases_are_refused():
    with pytest.raises(ValueError, match="not a generator: row sums up to 1"):
        check_generator(torch.eye(3))
    with pytest.raises(ValueError, match="off-diagonal down to -1"):
        check_generator(torch.tensor([[1.0, -1], [-1, 1]]))
    with pytest.raises(ValueError, match="use kind='cyclic'"):
        generator_basis(7)
    with pytest.raises(ValueError, match="kind must be one of"):
        generator_basis(4, "cycle")
    with pytest.raises(ValueError, match="expected 23 rates"):
        generator_from_rates(torch.zeros(3), generator_basis(4))


# Sinkhorn


def converged(p):
    """The doubly stochastic diag(e^u) p diag(e^v), by Newton's method on sums of rows and columns; its worst sum."""
    n = p.shape[-1]
    for _ in range(50):
        r, c = p.sum(-1), p.sum(-2)
        jacobian = torch.cat([torch.cat([torch.diag_embed(r), p], -1), torch.cat([p.mT, torch.diag_embed(c)], -1)], -2)
        step = torch.linalg.solve(jacobian[..., :-1, :-1], torch.cat([1 - r, 1 - c], -1)[..., :-1])
        step = step / step.abs().amax(-1, keepdim=True).clamp(min=1)
        u, v = step[..., :n], torch.nn.functional.pad(step[..., n:], (0, 1))
        p = p * u.exp()[..., :, None] * v.exp()[..., None, :]
    return p, max(float((p.sum(d) - 1).abs().max()) for d in (-1, -2))


def test_sinkhorn_converges_to_the_projection():
    torch.manual_seed(0)
    logits = torch.randn(100, 4, 4, dtype=F64)
    exact, error = converged(logits.exp())
    assert error < 1e-13
    torch.testing.assert_close(sinkhorn(logits, 200), exact, rtol=0, atol=1e-12)


def test_rows_are_exact_and_columns_carry_the_truncation_error():
    torch.manual_seed(0)
    p = sinkhorn(3 * torch.randn(500, 4, 4))
    error = doubly_stochastic_error(p)
    assert max(error.row_max.max(), -error.row_min.min()) < 1e-6
    assert error.column_max.max() > 1e-3  # 20 iterations are not enough for logits this far apart
    assert (p >= 0).all()
    assert p.sum(-2).max() <= 4


@pytest.mark.parametrize("scale", [100.0, 3000.0])
def test_huge_logits_give_neither_nan_nor_an_empty_row_or_column(scale):
    torch.manual_seed(0)
    logits = (scale * torch.randn(2000, 4, 4)).requires_grad_()
    p = sinkhorn(logits)
    assert p.isfinite().all()
    torch.testing.assert_close(p.sum(-1), torch.ones(2000, 4))
    assert (p.sum(-2) > 0.05).all()
    (gradient,) = torch.autograd.grad((p * torch.randn_like(p)).sum(), logits)
    assert gradient.isfinite().all()
    torch.testing.assert_close(p.double(), sinkhorn(logits.double()), rtol=0, atol=2e-4 * scale / 100)


def test_sinkhorn_differentiates_through_its_iterations():
    torch.manual_seed(0)
    assert gradcheck(sinkhorn, torch.randn(2, 3, 3, dtype=F64, requires_grad=True))
    assert sinkhorn(torch.zeros(3, 3, dtype=torch.bfloat16)).dtype == torch.float32
    with pytest.raises(ValueError, match="at least 1 iteration"):
        sinkhorn(torch.zeros(3, 3), 0)
    with pytest.raises(ValueError, match="square matrices"):
        sinkhorn(torch.zeros(3))


@pytest.mark.parametrize(("h", "error"), [(0.01, 0.039), (0.001, 0.49)])
def test_sinkhorn_is_a_poor_step_near_the_identity(h, error):
    """Recipe: n = 4, W lognormal(sigma = 2); Frobenius norm of (H_20 - H) over that of (H - I), H the converged
    projection of I + hW, median over 4000 draws. Backward Euler of a generator has no such error at any h."""
    torch.manual_seed(0)
    eye = torch.eye(4, dtype=F64)
    m = eye + h * torch.randn(4000, 4, 4, dtype=F64).mul(2).exp()
    exact, residual = converged(sinkhorn(m.log()))
    assert residual < 1e-13
    difference = torch.linalg.matrix_norm(sinkhorn(m.log()) - exact) / torch.linalg.matrix_norm(exact - eye)
    assert float(difference.median()) == pytest.approx(error, rel=0.05)
    assert math.isfinite(float(difference.max()))
