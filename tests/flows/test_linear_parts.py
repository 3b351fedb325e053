"""Closed-form steps of every linear part against dense matrix functions."""

import pytest
import torch
from torch.autograd import gradcheck

from odenets.flows import resolve_scheme
from odenets.flows.linear import Along, Diagonal, Generator, Outer, RankOne, Skew, StreamMatrix, Zero, guarded_unit
from odenets.flows.linear import generator_basis as basis
from odenets.flows.linear import generator_from_rates as from_rates
from tests.flows.dense import SCHEME_NAMES, dense_functions, dense_step

TOKENS, D, C, H = (2, 3), 4, 3, 0.4
F64 = torch.float64


def randn(*shape, dtype=F64):
    return torch.randn(*shape, dtype=dtype)


def unit(*shape):
    return torch.nn.functional.normalize(randn(*shape), dim=-1)


def rates(*shape):
    return torch.rand(*shape, dtype=F64)


# name: (part from its tensors, the tensors, A from them by definition, core shape of the state)
PARTS = {
    "zero": (lambda: Zero(D), (), lambda: torch.zeros(D, D, dtype=F64).expand(*TOKENS, D, D), (D,)),
    "diagonal": (Diagonal, (rates(*TOKENS, D),), lambda tau: -torch.diag_embed(tau), (D,)),
    "rank_one": (
        lambda k: RankOne(k, "exact"),
        (randn(*TOKENS, D),),
        lambda k: -torch.einsum("...i,...j->...ij", k, k),
        (D, C),
    ),
    "rank_one_rate": (
        lambda k, r: RankOne(k, "exact", r),
        (randn(*TOKENS, D), rates(*TOKENS)),
        lambda k, r: -torch.einsum("...,...i,...j->...ij", r, k, k),
        (D, C),
    ),
    "rank_one_unit_paper": (
        lambda k, r: RankOne(torch.nn.functional.normalize(k, dim=-1), "paper", r),
        (unit(*TOKENS, D), rates(*TOKENS)),
        lambda k, r: -torch.einsum("...,...i,...j->...ij", r, k, k),
        (D, C),
    ),
    "generator": (Generator, (from_rates(0.2 * rates(*TOKENS, 23), basis(4, dtype=F64)),), lambda g: g, (4, C)),
    "stream": (StreamMatrix, (randn(*TOKENS, D, D),), lambda m: m, (D, C)),
    "skew": (
        lambda s: Skew(s, 0.3),
        (randn(*TOKENS, D, D),),
        lambda s: s - s.transpose(-1, -2) - 0.3 * torch.eye(D, dtype=F64),
        (D,),
    ),
}


def reference(name, h, a, x, b):
    out = torch.empty_like(x)
    for i in range(TOKENS[0]):
        for j in range(TOKENS[1]):
            step = float(h[i, j]) if isinstance(h, torch.Tensor) else h
            out[i, j] = dense_step(name, step, a[i, j], x[i, j], None if b is None else b[i, j])
    return out


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
@pytest.mark.parametrize("part", PARTS)
def test_a_step_equals_dense_matrix_functions(part, scheme):
    torch.manual_seed(0)
    make, tensors, dense, core = PARTS[part]
    linear, a = make(*tensors), dense(*tensors)
    x, b = randn(*TOKENS, *core), randn(*TOKENS, *core)
    per_token = torch.rand(TOKENS, dtype=F64) + 0.05
    for h in (H, per_token):
        for forcing in (b, None):
            ours = linear.propagate(resolve_scheme(scheme), h, x, forcing)
            torch.testing.assert_close(ours, reference(scheme, h, a, x, forcing), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(linear.matrix().to(F64).expand_as(a), a, rtol=1e-14, atol=1e-14)
    columns = x if len(core) == 2 else x[..., None]
    torch.testing.assert_close(linear.apply(x), (a @ columns).reshape(x.shape), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(linear.field(x, b), linear.apply(x) + b)


@pytest.mark.parametrize("scheme", ["forward_euler", "backward_euler", "exponential", "rk4", "radau_iia3"])
@pytest.mark.parametrize("part", PARTS)
def test_gradients_of_a_step(part, scheme):
    torch.manual_seed(0)
    make, tensors, _, core = PARTS[part]
    inputs = [t[:1, :2].clone().requires_grad_() for t in tensors]
    x, b = (randn(1, 2, *core).requires_grad_() for _ in range(2))
    h = (torch.rand(1, 2, dtype=F64) + 0.1).requires_grad_()

    def step(h, x, b, *tensors):
        return make(*tensors).propagate(resolve_scheme(scheme), h, x, b)

    assert gradcheck(step, (h, x, b, *inputs))


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_step_sizes_of_any_form_equal_a_loop(scheme):
    torch.manual_seed(0)
    scheme = resolve_scheme(scheme)
    for make, tensors, _, core in PARTS.values():
        linear, x, b = make(*tensors), randn(*TOKENS, *core), randn(*TOKENS, *core)
        same = linear.propagate(scheme, 0.3, x, b)
        torch.testing.assert_close(linear.propagate(scheme, torch.tensor(0.3, dtype=F64), x, b), same)
        per_sample = torch.tensor([0.3, 0.7], dtype=F64)
        mixed = linear.propagate(scheme, per_sample, x, b)
        torch.testing.assert_close(mixed[0], same[0])
        torch.testing.assert_close(mixed[1], linear.propagate(scheme, 0.7, x, b)[1])


def test_tensors_shared_by_all_tokens():
    torch.manual_seed(0)
    scheme = resolve_scheme("exponential")
    for part, shared, core in (
        (Diagonal, rates(D), (D,)),
        (RankOne, unit(D), (D, C)),
        (StreamMatrix, randn(D, D), (D, C)),
        (Skew, randn(D, D), (D,)),
    ):
        x, b = randn(*TOKENS, *core), randn(*TOKENS, *core)
        for h in (0.3, torch.rand(TOKENS, dtype=F64), torch.rand(TOKENS[0], dtype=F64)):
            one = part(shared).propagate(scheme, h, x, b)
            each = part(shared.expand(*TOKENS, *shared.shape)).propagate(scheme, h, x, b)
            torch.testing.assert_close(one, each, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
@pytest.mark.parametrize("coefficient", ["paper", "exact"])
def test_the_delta_step_is_the_papers_with_either_coefficient(scheme, coefficient):
    torch.manual_seed(0)
    k, v, x, rate = randn(*TOKENS, D) * 0.5, randn(*TOKENS, C), randn(*TOKENS, D, C), rates(*TOKENS)
    part = RankOne(k, coefficient, rate)
    resolved = resolve_scheme(scheme)
    kappa = (k * k).sum(-1)
    s = H * rate
    r = torch.stack([torch.tensor(dense_functions(scheme, -z.reshape(1, 1).numpy())[0]) for z in (s * kappa).flatten()])
    c = (1 - r.reshape(TOKENS)) / kappa if coefficient == "exact" else resolved.gate(s)
    error = v[..., None, :] - (k[..., :, None] * x).sum(-2, keepdim=True)
    expected = x + c[..., None, None] * k[..., :, None] * error
    torch.testing.assert_close(part.propagate(resolved, H, x, Along(v)), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(part.gate(resolved, H), c, rtol=1e-12, atol=1e-12)
    field = rate[..., None, None] * k[..., :, None] * error
    torch.testing.assert_close(part.field(x, Along(v)), field)
    torch.testing.assert_close(part.apply(x) + part.forcing(Along(v)), field)


def test_a_zero_key_leaves_the_state_and_its_gradient_finite():
    k = torch.zeros(2, D, requires_grad=True)
    x, v = torch.randn(2, D, C), torch.randn(2, C)
    for coefficient in ("paper", "exact"):
        y = RankOne(guarded_unit(k), coefficient).propagate(resolve_scheme("exponential"), 0.5, x, Along(v))
        torch.testing.assert_close(y, x, rtol=0, atol=0)
        (gradient,) = torch.autograd.grad(y.sum(), k)
        assert gradient.isfinite().all()
    torch.testing.assert_close(guarded_unit(3e-5 * torch.eye(3)), 3 / 10**0.5 * torch.eye(3))


def test_an_outer_forcing_equals_its_dense_form():
    torch.manual_seed(0)
    u, v, x = randn(*TOKENS, D), randn(*TOKENS, C), randn(*TOKENS, D, C)
    for part in (StreamMatrix(randn(*TOKENS, D, D)), RankOne(randn(*TOKENS, D))):
        for name in SCHEME_NAMES:
            scheme, dense = resolve_scheme(name), u[..., :, None] * v[..., None, :]
            ours = part.propagate(scheme, H, x, Outer(u, v))
            torch.testing.assert_close(ours, part.propagate(scheme, H, x, dense), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(part.field(x, Outer(u, v)), part.apply(x) + dense)


def test_step_matrices_are_what_propagate_applies():
    torch.manual_seed(0)
    m, x, b = randn(*TOKENS, D, D), randn(*TOKENS, D, C), randn(*TOKENS, D, C)
    for h in (H, torch.rand(TOKENS[0], dtype=F64)):
        r, hq = StreamMatrix(m).step_matrices(resolve_scheme("backward_euler"), h)
        expected = StreamMatrix(m).propagate(resolve_scheme("backward_euler"), h, x, b)
        torch.testing.assert_close(r @ x + hq @ b, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("scheme", ["forward_euler", "backward_euler", "exponential", "rk4"])
def test_bfloat16_states_are_rounded_once(scheme):
    torch.manual_seed(0)
    for name, (make, tensors, _, core) in PARTS.items():
        if name == "rank_one_unit_paper":  # normalises k itself
            continue
        low = [t.bfloat16() for t in tensors]
        x, b = randn(*TOKENS, *core).bfloat16(), randn(*TOKENS, *core).bfloat16()
        ours = make(*low).propagate(resolve_scheme(scheme), H, x, b)
        exact = make(*(t.double() for t in low)).propagate(resolve_scheme(scheme), H, x.double(), b.double())
        assert ours.dtype == torch.bfloat16
        # one rounding of the result: half a unit of 8 bits of each element (and what single precision adds)
        assert ((ours.double() - exact).abs() <= 2**-8 * exact.abs() + 1e-5).all()


def test_autocast_does_not_touch_a_step():
    torch.manual_seed(0)
    for make, tensors, _, core in PARTS.values():
        x, b = randn(*TOKENS, *core).float(), randn(*TOKENS, *core).float()
        linear = make(*(t.float() for t in tensors))
        for name in ("radau_iia3", "exponential", "rk4"):
            plain = linear.propagate(resolve_scheme(name), H, x, b)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                torch.testing.assert_close(linear.propagate(resolve_scheme(name), H, x, b), plain, rtol=0, atol=0)


def test_rotation_keeps_the_norm_where_the_scheme_does():
    torch.manual_seed(0)
    part, x0 = Skew(randn(6, 6)), randn(5, 6)
    drift = {}
    for name in ("implicit_midpoint", "exponential", "forward_euler", "backward_euler"):
        x = x0
        for _ in range(100):
            x = part.propagate(resolve_scheme(name), 0.1, x)
        drift[name] = x.norm(dim=-1) / x0.norm(dim=-1) - 1
    assert drift["implicit_midpoint"].abs().max() < 1e-12
    assert drift["exponential"].abs().max() < 1e-12
    assert drift["forward_euler"].min() > 1  # spirals out
    assert drift["backward_euler"].max() < -0.5  # and in
    damped = Skew(randn(6, 6), 0.5).propagate(resolve_scheme("exponential"), 1.0, x0)
    torch.testing.assert_close(damped.norm(dim=-1), x0.norm(dim=-1) * torch.tensor(-0.5, dtype=F64).exp())


def test_wrong_shapes_say_what_fits():
    scheme = resolve_scheme("rk4")
    x = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r"Diagonal with tau \[5\] acts on dimension -1 of the state, which must be 5"):
        Diagonal(torch.zeros(5)).propagate(scheme, 0.1, x)
    with pytest.raises(ValueError, match="must be 4, got a state"):
        RankOne(torch.zeros(4)).propagate(scheme, 0.1, x)
    with pytest.raises(ValueError, match=r"h must be a number or one step size per token \[2, 3\]"):
        Diagonal(torch.zeros(4)).propagate(scheme, torch.zeros(3), x)
    with pytest.raises(ValueError, match="coefficient must be one of paper, exact"):
        RankOne(torch.zeros(4), "papr")
    with pytest.raises(ValueError, match="no k for an Along forcing"):
        StreamMatrix(torch.zeros(3, 3)).propagate(scheme, 0.1, x, Along(torch.zeros(4)))
    with pytest.raises(ValueError, match="square matrices"):
        Skew(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="takes no Outer forcing"):
        Skew(torch.zeros(4, 4)).propagate(scheme, 0.1, x, Outer(torch.zeros(4), torch.zeros(4)))
    with pytest.raises(ValueError, match="does not know its size"):
        Zero().matrix()
