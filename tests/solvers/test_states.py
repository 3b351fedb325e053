"""States of every kind, times of every dtype, both directions: the same numbers as the plain float64 tensor."""

from __future__ import annotations

import math

import pytest
import torch

from odenets import solve
from odenets.solvers import IMPLICIT_TABLEAUS, FixedStep
from odenets.solvers.solver import ADAPTIVE_METHODS

from .fields import ANY_FIELD

F64 = torch.float64
TS = torch.linspace(0, 2, 5, dtype=F64)
# of the implicit methods one with a block per stage and one that solves all stages together
LEFT_OUT = {"scipy_solver", "torchdiffeq", *IMPLICIT_TABLEAUS} - {"trbdf2", "radauIIA5", "implicit_euler"}
EVERY = [name for name in ANY_FIELD if name not in LEFT_OUT]
LOOSE = {"rtol": 1e-6, "atol": 1e-8}  # of order 2: tighter tolerances are thousands of steps
REAL_ONLY = ("rodas5p",)  # their linear systems are real; complex states are refused with the way out


def settings(method: str) -> dict:
    if method not in ADAPTIVE_METHODS:
        return {"steps": 60}
    return LOOSE if method in ("adaptive_heun", "fehlberg2", "reversible_heun") else {"rtol": 1e-8, "atol": 1e-10}


@pytest.mark.parametrize("method", EVERY)
def test_backward_in_time_returns_to_the_start(method):
    def field(t, y):
        return torch.cos(t) * y.roll(1)

    y0 = torch.tensor([1.0, 0.3], dtype=F64)
    tolerance = {"euler": 0.2, "implicit_euler": 0.2}.get(method, 2e-3)
    forward = solve(field, y0, TS, solver=method, **settings(method))
    backward = solve(field, forward.ys[-1], TS.flip(0), solver=method, **settings(method))
    assert torch.allclose(backward.ys.flip(0), forward.ys, atol=tolerance)


@pytest.mark.parametrize("method", [name for name in EVERY if name not in REAL_ONLY])
def test_complex_states(method):
    """y' = (i - 0.1 t) y: modulus exp(-0.05 t^2), angle t."""
    y0 = torch.tensor([1.0 + 0j, 2j], dtype=torch.complex128)
    solution = solve(lambda t, y: (1j - 0.1 * t) * y, y0, TS, solver=method, **settings(method))
    exact = y0 * torch.exp(1j * TS - 0.05 * TS**2)[:, None]
    assert solution.ys.dtype == torch.complex128
    assert (solution.ys - exact).abs().max() < {"euler": 0.1, "implicit_euler": 0.1}.get(method, 2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("time_dtype", [torch.float16, torch.float32, torch.float64, torch.int64])
def test_state_keeps_its_dtype_whatever_the_times(dtype, time_dtype):
    seen = set()

    def field(t, y):
        seen.add(t.dtype)
        return -y

    ts = torch.tensor([0, 1, 2]).to(time_dtype)
    for method in ("dopri5", "rk4", "explicit_adams"):
        ys = solve(field, torch.ones(3, dtype=dtype), ts, solver=method).ys
        assert ys.dtype == dtype
        assert torch.allclose(ys[-1], torch.full((3,), math.exp(-2), dtype=dtype), rtol=0.1)
    assert seen == {dtype}


def tree_field(t, state):
    a, b = state["a"], state["b"][0]
    return {"b": [a.sum() * torch.ones_like(b) * torch.sin(t)], "a": b.sum(-1) - a}  # other key order on purpose


def flat_field(t, y):
    a, b = y[:2], y[2:].reshape(2, 3)
    return torch.cat([b.sum(-1) - a, (a.sum() * torch.ones_like(b) * torch.sin(t)).reshape(-1)])


@pytest.mark.parametrize("method", ["tsit5", "rk4", "explicit_adams", "scipy_solver", "torchdiffeq"])
def test_tree_state_equals_flat_state(method):
    a, b = torch.tensor([1.0, -0.5], dtype=F64), torch.arange(6, dtype=F64).reshape(2, 3) / 5
    kwargs = {"steps": 40} if method in ("rk4", "explicit_adams") else {"rtol": 1e-9, "atol": 1e-9}
    tree = solve(tree_field, {"a": a, "b": [b]}, TS, solver=method, **kwargs)
    flat = solve(flat_field, torch.cat([a, b.reshape(-1)]), TS, solver=method, **kwargs)
    assert tree.ys["a"].shape == (5, 2)
    assert tree.ys["b"][0].shape == (5, 2, 3)
    assert torch.allclose(tree.ys["a"], flat.ys[:, :2], atol=1e-7)
    assert torch.allclose(tree.ys["b"][0].reshape(5, 6), flat.ys[:, 2:], atol=1e-7)


def test_leaves_of_different_dtypes_keep_theirs():
    state = (torch.ones(2, dtype=torch.float32), torch.ones(2, dtype=torch.complex64))
    solution = solve(lambda t, y: (-y[0], 1j * y[1]), state, (0.0, 1.0))
    assert [y.dtype for y in solution.ys] == [torch.float32, torch.complex64]
    assert torch.allclose(solution.ys[1][-1], torch.exp(torch.tensor(1j)).to(torch.complex64).expand(2), atol=1e-4)


def test_tolerance_per_leaf():
    """A loose tolerance on one leaf lets the steps grow; the strict one alone decides then."""
    fast = (torch.ones(1, dtype=F64), torch.ones(1, dtype=F64))

    def field(t, y):
        return (-y[0] * 0, 30 * torch.cos(30 * t) * y[1])

    strict = solve(field, fast, (0.0, 2.0), rtol=1e-9, atol=1e-9)
    loose = solve(field, fast, (0.0, 2.0), rtol=(1e-9, 1e-2), atol=(1e-9, 1e-2))
    assert loose.stats.accepted < strict.stats.accepted / 3
    with pytest.raises(ValueError, match="same length as the tuple y0"):
        solve(field, fast, (0.0, 2.0), rtol=(1e-9,))


def test_zero_dimensional_and_empty_states():
    assert solve(lambda t, y: -y, torch.tensor(1.0), (0.0, 1.0)).ys.shape == (2,)
    empty = solve(lambda t, y: -y, torch.ones(0, 3), (0.0, 1.0))
    assert empty.ys.shape == (2, 0, 3)


def test_one_time_returns_the_start():
    y0 = torch.randn(4)
    assert torch.equal(solve(lambda t, y: -y, y0, [3.0]).ys, y0[None])


def test_constant_field_is_broadcast():
    assert torch.allclose(solve(lambda t, y: torch.ones(()), torch.zeros(3), (0.0, 2.0)).ys[-1], torch.full((3,), 2.0))


def test_args_reach_the_field():
    ys = solve(lambda t, y, a, b: a * y + b, torch.ones(1, dtype=F64), (0.0, 1.0), args=(0.5, 1.0), rtol=1e-9).ys
    assert float(ys[-1]) == pytest.approx(3 * math.exp(0.5) - 2, rel=1e-6)


@pytest.mark.parametrize("method", ["tsit5", "dopri8", "bosh3", "fehlberg2"])
def test_dense_output_agrees_with_saved_states(method):
    ts = torch.linspace(0, 3, 31, dtype=F64)
    solution = solve(lambda t, y: torch.cos(t) * y, torch.ones(2, dtype=F64), ts, solver=method, dense=True)
    assert torch.allclose(solution.dense(ts), solution.ys, atol=1e-13)
    assert solution.dense(torch.rand(2, 5)).shape == (2, 5, 2)
    assert solution.dense(1.5).shape == (2,)
    with pytest.raises(ValueError, match=r"\[0, 3\]"):
        solution.dense(3.1)


def test_dense_output_backward_in_time():
    solution = solve(lambda t, y: -y, torch.ones(1, dtype=F64), (1.0, -1.0), rtol=1e-9, atol=1e-9, dense=True)
    t = torch.linspace(-1, 1, 9, dtype=F64)
    assert torch.allclose(solution.dense(t)[:, 0], torch.exp(1 - t), atol=1e-6)


def test_saving_every_step_and_only_the_end():
    field = lambda t, y: torch.cos(t) * y  # noqa: E731
    y0 = torch.ones(1, dtype=F64)
    steps = solve(field, y0, (0.0, 3.0), save_at="steps")
    assert len(steps.ts) == len(steps.ys) == steps.stats.accepted + 1
    assert torch.allclose(steps.ys[:, 0], torch.exp(torch.sin(steps.ts)), atol=1e-4)
    end = solve(field, y0, (0.0, 3.0), save_at="end")
    assert end.ys.shape == (1, 1)
    assert torch.equal(end.ys[0], steps.ys[-1])


@pytest.mark.parametrize("interpolation", ["linear", "cubic", "dense"])
def test_fixed_grid_interpolates_between_its_points(interpolation):
    ts = torch.tensor([0.0, 0.33, 0.5, 1.0], dtype=F64)
    solver = FixedStep("rk4", step_size=0.1, interpolation=interpolation)
    error = (solve(lambda t, y: torch.cos(t) * y, torch.ones(1, dtype=F64), ts, solver=solver).ys[:, 0]
             - torch.exp(torch.sin(ts))).abs()  # fmt: skip
    assert error[[0, 2, 3]].max() < 1e-6
    assert (1e-5 < error[1] < 2e-3) if interpolation == "linear" else error[1] < 1e-6
