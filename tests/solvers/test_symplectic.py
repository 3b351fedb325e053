"""Splitting methods: order, symplecticity, time reversal, bounded energy, states, gradients."""

from __future__ import annotations

import dataclasses
import math

import mpmath
import numpy as np
import pytest
import torch

from odenets import solve
from odenets.fields import HenonHeiles, Kepler, Pendulum
from odenets.solvers import FixedStep, InputError, SeparableField, SeparableHamiltonian
from odenets.solvers.field import FlatField
from odenets.solvers.methods import ONE_STEP, SYMPLECTIC
from odenets.solvers.methods.symplectic import LEAPFROG, YOSHIDA4
from odenets.solvers.one_step import Accuracy
from odenets.solvers.state import StateLayout
from odenets.solvers.step import stage_times

F64 = torch.float64
NAMES = [method.name for method in SYMPLECTIC]
Q0, P0 = torch.tensor([0.3, -0.4], dtype=F64), torch.tensor([0.5, 0.2], dtype=F64)


def exact_q(t):
    return torch.stack([torch.sin(t) + 0.5, torch.cos(2 * t)], -1)


def exact_p(t):
    return torch.stack([torch.exp(-t), torch.sin(1.5 * t) + 1], -1)


def exact(t):
    return torch.cat([exact_q(t), exact_p(t)], -1)


def drift(t, p):
    def bend(p):
        return torch.stack([p[..., 0] * p[..., 1], torch.sin(p[..., 0])], -1)

    return torch.stack([torch.cos(t), -2 * torch.sin(2 * t)], -1) + bend(p) - bend(exact_p(t))


def kick(t, q):
    def bend(q):
        return torch.stack([q[..., 1] ** 2 - torch.sin(2 * q[..., 0]), q[..., 0] * q[..., 1]], -1)

    return torch.stack([-torch.exp(-t), 1.5 * torch.cos(1.5 * t)], -1) + bend(q) - bend(exact_q(t))


MANUFACTURED = SeparableField(kick, drift)  # both halves nonlinear and non-autonomous, solved by `exact`


def potential(t, q):
    return (1 + 0.5 * torch.cos(t)) * (q[..., 0] ** 2 * q[..., 1] + torch.cos(q).sum(-1))


def kinetic(t, p):
    return torch.sqrt(1 + p.square().sum(-1)) + 0.1 * torch.sin(t) * p[..., 0] * p[..., 1]


DRIVEN = SeparableHamiltonian(potential, kinetic)


def measured_order(name, length, ns=(20, 28, 40)):
    errors = []
    for n in ns:
        grid = torch.linspace(0, 1, n + 1, dtype=F64)
        ts = length * (grid + 0.02 * torch.sin(2 * math.pi * grid))
        errors.append(
            float((solve(MANUFACTURED, exact(ts[0]), ts, solver=FixedStep(name)).ys - exact(ts)).norm() / n**0.5)
        )
    assert errors[-1] > 1e-13, "below rounding: take fewer steps"
    return -np.polyfit(np.log(ns), np.log(errors), 1)[0]


@pytest.mark.parametrize("length", [1.0, -1.0])
@pytest.mark.parametrize("method", SYMPLECTIC, ids=NAMES)
def test_measured_order_on_a_nonautonomous_field(method, length):
    assert measured_order(method.name, length) == pytest.approx(method.order, abs=0.2)


@pytest.mark.parametrize("wrong", ["node", "fraction"])
def test_a_wrong_coefficient_would_be_seen(wrong, monkeypatch):
    method = dataclasses.replace(YOSHIDA4)
    if wrong == "node":  # drifts at the middle of their own interval instead of at the kicks' time
        object.__setattr__(method, "c", tuple(0.5 if i == 1 else c for i, c in enumerate(method.c)))
    else:
        method = dataclasses.replace(YOSHIDA4, drifts=(1 / 3, 1 / 3, 1 / 3), kicks=(1 / 6, 1 / 3, 1 / 3, 1 / 6))
    monkeypatch.setitem(ONE_STEP, "yoshida4", method)
    assert measured_order("yoshida4", 1.0) < 3.2


@pytest.mark.parametrize("method", SYMPLECTIC, ids=NAMES)
def test_order_conditions_in_thirty_digits(method):
    """exp(b_1 h B) exp(a_1 h A) ... = exp(h (A + B)) + O(h^(order + 1)) for matrices that do not commute."""
    rng = np.random.default_rng(0)
    a, b = (mpmath.matrix(rng.normal(size=(3, 3)).tolist()) for _ in range(2))
    rounding = 0
    with mpmath.workdps(40):
        errors = []
        for h in (mpmath.mpf(2) ** -4, mpmath.mpf(2) ** -5):
            product = mpmath.eye(3)
            for is_kick, fraction in method.parts:
                product = mpmath.expm(h * fraction * (b if is_kick else a)) * product
            errors.append(mpmath.mnorm(product - mpmath.expm(h * (a + b))))
            rounding = 1e-15 * float(h)  # of the coefficients themselves
        assert errors[1] > 10 * rounding
        assert float(mpmath.log(errors[0] / errors[1], 2)) == pytest.approx(method.order + 1, abs=0.35)
    assert math.fsum(f for is_kick, f in method.parts if is_kick) == pytest.approx(1, abs=4e-16)
    assert math.fsum(f for is_kick, f in method.parts if not is_kick) == pytest.approx(1, abs=4e-16)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_symplectic(name):
    """M^T J M = J for the Jacobian M of a large step, far from the small-step limit; not so for rk4."""
    identity = torch.eye(2, dtype=F64)
    zero = torch.zeros_like(identity)
    form = torch.cat([torch.cat([zero, identity], 1), torch.cat([-identity, zero], 1)])

    def defect(solver):
        def step(y):
            return solve(DRIVEN, y, (0.2, 0.9), solver=solver, steps=1).ys[-1]

        m = torch.autograd.functional.jacobian(step, torch.cat([Q0, P0]))
        return float((m.T @ form @ m - form).abs().max())

    assert defect(name) < 2e-14
    assert defect("rk4") > 1e-6


@pytest.mark.parametrize("name", ["leapfrog", "yoshida4", "yoshida6"])
def test_steps_backwards_return_to_the_start(name):
    y0 = torch.cat([Q0, P0])
    ts = torch.linspace(0.2, 2.2, 16, dtype=F64)
    there = solve(DRIVEN, y0, ts, solver=FixedStep(name)).ys
    back = solve(DRIVEN, there[-1], ts.flip(0), solver=FixedStep(name)).ys
    assert torch.allclose(back.flip(0), there, rtol=0, atol=1e-13)
    forward_error = solve(DRIVEN, y0, (0.2, 2.2), solver="dopri8", rtol=1e-10, atol=1e-12).ys[-1] - there[-1]
    assert float(forward_error.norm()) > 1e-8  # the way back retraces the errors of the way there


@pytest.mark.parametrize("method", SYMPLECTIC, ids=NAMES)
def test_every_step_has_an_inverse(method):
    y0 = torch.cat([Q0, P0])
    bound = method.bind(FlatField(DRIVEN, StateLayout.of(y0)), Accuracy())
    times = stage_times(torch.tensor(method.c, dtype=F64), torch.tensor(0.2, dtype=F64), 0.7, F64)
    y1 = bound.trial(times, 0.7, y0, lambda: y0).y1
    assert float((y1 - y0).norm()) > 0.1
    assert torch.allclose(bound.inverse(times, 0.7, y1), y0, rtol=0, atol=4e-15)


def energy_errors(system, name, h, steps):
    """|H - H_0| / |H_0| at every step."""
    x0 = system.initial_state(dtype=F64)
    ts = torch.arange(steps + 1, dtype=F64) * h
    with torch.no_grad():
        energies = system.energy(solve(system, x0, ts, solver=FixedStep(name)).ys)
    return (energies / energies[0] - 1).abs()


@pytest.mark.parametrize(("system", "h"), [(Kepler(), 0.05), (HenonHeiles(), 0.2)], ids=["kepler", "henon_heiles"])
def test_energy_stays_bounded_where_rk4_drifts(system, h):
    """The largest error of the last fifth is that of the first; rk4's has grown with time. Longer: benchmarks/energy.py."""
    for name in ("leapfrog", "yoshida4"):
        errors = energy_errors(system, name, h, 1000)
        assert errors[-200:].max() < 1.3 * errors[:200].max()
    errors = energy_errors(system, "rk4", h, 1000)
    assert errors[-200:].max() > 3 * errors[:200].max()


def test_kepler_keeps_its_angular_momentum():
    """Kicks along q and drifts along p leave q x p alone."""
    system = Kepler()
    with torch.no_grad():
        ys = solve(system, system.initial_state(dtype=F64), (0.0, 20.0), solver="leapfrog", steps=400).ys
    assert float((system.angular_momentum(ys[-1]) / system.angular_momentum(ys[0]) - 1).abs()) < 1e-13


def test_leapfrog_by_hand_with_a_force_that_depends_on_time():
    h, q, p = 0.3, 1.0, 0.5
    field = SeparableField(lambda t, q: -q * (1 + t), lambda t, p: p * (1 + t * t))
    got = solve(field, torch.tensor([q, p], dtype=F64), (1.0, 1.0 + h), solver="leapfrog", steps=1).ys[-1]
    p -= h / 2 * q * 2.0
    q += h * p * (1 + 1.15**2)
    p -= h / 2 * q * 2.3
    assert got.tolist() == pytest.approx([q, p], abs=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_tuples_halves_and_batches_agree(name):
    y0 = torch.cat([Q0, P0])
    halves = solve(DRIVEN, y0, (0.0, 1.0), solver=name, steps=7).ys[-1]
    q, p = solve(DRIVEN, (Q0, P0), (0.0, 1.0), solver=name, steps=7).ys
    batch = solve(DRIVEN, torch.stack([y0, 2 * y0]), (0.0, 1.0), solver=name, steps=7).ys[-1]
    assert torch.allclose(torch.cat([q[-1], p[-1]]), halves, rtol=0, atol=1e-15)
    assert torch.allclose(batch[0], halves, rtol=0, atol=1e-15)
    assert torch.allclose(DRIVEN(torch.tensor(0.5), (Q0, P0))[1], DRIVEN(torch.tensor(0.5), y0)[2:])


def test_neighbouring_steps_share_a_force_and_jumps_do_not():
    def nfe(**settings):
        return solve(SeparableField(lambda t, q: -q), torch.ones(2, dtype=F64), (0.0, 1.0), **settings).stats.nfe

    assert nfe(solver="leapfrog", steps=10) == 11
    assert nfe(solver="yoshida4", steps=10) == 31
    assert nfe(solver="symplectic_euler", steps=10) == 10
    assert nfe(solver=FixedStep("leapfrog", steps=10, perturb=True)) == 20


def test_a_shared_force_never_hides_a_gradient():
    """A state reached without gradients, stepped on from with them."""
    strength = torch.tensor(2.0, dtype=F64, requires_grad=True)
    y0 = torch.cat([Q0, P0])
    field = FlatField(SeparableField(lambda t, q: -strength * q), StateLayout.of(y0))
    bound = LEAPFROG.bind(field, Accuracy())
    times = stage_times(torch.tensor(LEAPFROG.c, dtype=F64), torch.tensor(0.0, dtype=F64), 0.5, F64)
    with torch.no_grad():
        y1 = bound.trial(times, 0.5, y0, lambda: y0).y1
    bound.accepted()
    (shared,) = torch.autograd.grad(bound.trial(times, 0.5, y1, lambda: y0).y1.sum(), strength)
    fresh = LEAPFROG.bind(field, Accuracy())
    (alone,) = torch.autograd.grad(fresh.trial(times, 0.5, y1, lambda: y0).y1.sum(), strength)
    assert torch.equal(shared, alone)


@pytest.mark.parametrize("name", NAMES)
def test_dense_output_has_the_methods_order(name):
    errors = []
    for h in (0.2, 0.1):
        t = torch.linspace(0, h, 11, dtype=F64)
        dense = solve(MANUFACTURED, exact(t[0]), (0.0, h), solver=name, steps=1, dense=True).dense
        errors.append(float((dense(t) - exact(t)).norm(dim=-1).max()))
        assert torch.allclose(dense(t), solve(MANUFACTURED, exact(t[0]), t, solver=name, steps=1).ys, atol=1e-14)
    assert math.log2(errors[0] / errors[1]) > ONE_STEP[name].order + 1 - 0.4


@pytest.mark.parametrize("name", NAMES)
def test_gradients_against_finite_differences(name):
    """With respect to the state, parameters behind two autograd gradients, and the times."""
    y0 = torch.cat([Q0, P0]).requires_grad_()
    weight = torch.tensor([1.3, 0.7], dtype=F64, requires_grad=True)
    ts = torch.tensor([0.0, 0.35, 0.8], dtype=F64, requires_grad=True)

    def run(y0, weight, ts):
        field = SeparableHamiltonian(lambda t, q: (weight * torch.cos(q * (1 + t))).sum(), kinetic)
        return solve(field, y0, ts, solver=name, steps=3).ys

    assert torch.autograd.gradcheck(run, (y0, weight, ts.detach()))
    assert torch.autograd.gradcheck(run, (y0.detach(), weight.detach(), ts))


def test_a_hamiltonian_works_under_vmap():
    y = torch.randn(5, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(0.3, dtype=F64)
    each = torch.vmap(lambda x: DRIVEN(t, x))(y)
    assert torch.allclose(each, DRIVEN(t, y), rtol=1e-14)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (F64, 1e-8)])
@pytest.mark.parametrize("system", [Kepler(), Pendulum(drive=0.5), HenonHeiles()], ids=lambda s: type(s).__name__)
def test_systems_in_both_precisions(system, dtype, tolerance):
    x0 = system.initial_state(3, dtype=dtype)
    ys = solve(system, x0, (0.0, 1.0), solver="yoshida6", steps=100).ys
    assert ys.dtype == dtype
    reference = solve(system, x0.to(F64), (0.0, 1.0), solver="dopri8", rtol=1e-12, atol=1e-13).ys
    assert torch.allclose(ys[-1].to(F64), reference[-1], atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solve(lambda t, y: -y, torch.ones(2), (0.0, 1.0), solver="leapfrog"), "SeparableField"),
        (lambda: solve(DRIVEN, torch.ones(3), (0.0, 1.0), solver="leapfrog"), r"pair \(q, p\)"),
        (lambda: solve(DRIVEN, (Q0, P0, Q0), (0.0, 1.0), solver="leapfrog"), "two tensors"),
        (
            lambda: solve(SeparableField(lambda t, q: q[:1]), torch.ones(4), (0.0, 1.0), solver="leapfrog"),
            "kick must return",
        ),
        (
            lambda: solve(DRIVEN, torch.ones(4), (0.0, 1.0), solver=FixedStep("leapfrog", interpolation="linear")),
            "interpolation must be dense",
        ),
    ],
)
def test_wrong_input_says_what_to_write(call, message):
    with pytest.raises(InputError, match=message):
        call()
