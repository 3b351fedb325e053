"""A clock per sample: every trajectory must come out as if it had been solved alone."""

from __future__ import annotations

import math

import pytest
import torch

from odenets import solve
from odenets.solvers import TABLEAUS, Adaptive, PIDController, Status

from .fields import COUPLED_START, coupled, coupled_exact

F64 = torch.float64
ADAPTIVE = [name for name, tableau in TABLEAUS.items() if tableau.adaptive]


def van_der_pol(t, y):
    x, v = y.unbind(-1)
    return torch.stack([v, (1 + torch.as_tensor(t).cos() ** 2) * (1 - x**2) * v - x], -1)


@pytest.fixture
def starts():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 2, dtype=F64, generator=generator) * torch.tensor([[1.0], [0.1], [3.0], [0.5], [2.0]])


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_each_sample_is_solved_as_if_alone(method, direction, starts):
    ts = direction * torch.linspace(0, 3, 8, dtype=F64)
    tol = 1e-4 if TABLEAUS[method].order < 3 else 1e-6

    def field(t, y):  # attracting in the direction walked
        return direction * van_der_pol(t, y)

    together = solve(field, starts, ts, solver=method, rtol=tol, atol=tol, per_sample=True)
    for i, start in enumerate(starts):
        alone = solve(field, start, ts, solver=method, rtol=tol, atol=tol)
        assert int(together.stats.accepted[i]) == alone.stats.accepted
        assert int(together.stats.rejected[i]) == alone.stats.rejected
        # the same steps: what differs is rounding
        assert torch.allclose(together.ys[:, i], alone.ys, atol=1e-10, rtol=1e-9)


def test_one_sample_does_not_touch_another(starts):
    ts = torch.linspace(0, 3, 8, dtype=F64)
    first = solve(van_der_pol, starts, ts, per_sample=True)
    changed = starts.clone()
    changed[2] *= 1.7
    second = solve(van_der_pol, changed, ts, per_sample=True)
    others = [0, 1, 3, 4]
    assert torch.equal(first.ys[:, others], second.ys[:, others])
    assert not torch.allclose(first.ys[:, 2], second.ys[:, 2])


def test_own_times_for_every_sample():
    ts = torch.stack([torch.linspace(0, 1, 6, dtype=F64), torch.linspace(2, 5, 6, dtype=F64)])
    y0 = coupled_exact(ts[:, 0])
    solution = solve(coupled, y0, ts, per_sample=True, rtol=1e-9, atol=1e-9)
    assert solution.ys.shape == (6, 2, 2)
    assert torch.allclose(solution.ys.transpose(0, 1), coupled_exact(ts), atol=1e-7)


def test_controller_history_is_per_sample(starts):
    ts = torch.linspace(0, 3, 4, dtype=F64)
    solver = Adaptive("tsit5", controller=PIDController(0.4, 0.3, 0.05), per_sample=True)
    together = solve(van_der_pol, starts, ts, solver=solver)
    alone = solve(van_der_pol, starts[3:4], ts, solver=solver)
    assert int(together.stats.accepted[3]) == int(alone.stats.accepted[0])
    assert torch.allclose(together.ys[:, 3:4], alone.ys, atol=1e-12)


def test_tree_states_keep_the_batch_in_front():
    state = {"x": torch.ones(3, 2, dtype=F64), "v": torch.zeros(3, dtype=F64)}

    def field(t, s):
        return {"x": -s["x"], "v": torch.cos(t)}

    ts = torch.linspace(0, 2, 5, dtype=F64)
    ys = solve(field, state, ts, per_sample=True, rtol=1e-8, atol=1e-8).ys
    assert ys["x"].shape == (5, 3, 2)
    assert torch.allclose(ys["v"], torch.sin(ts)[:, None].expand(5, 3), atol=1e-6)
    assert torch.allclose(ys["x"], torch.exp(-ts)[:, None, None].expand(5, 3, 2), atol=1e-6)


def test_one_failing_sample_leaves_the_others_solved():
    y0 = torch.tensor([[1.0], [-1.0], [math.nan]], dtype=F64)  # y' = y^2 has a pole at t = 1 for the first
    ts = torch.linspace(0, 2, 5, dtype=F64)
    solution = solve(lambda t, y: y**2, y0, ts, per_sample=True, throw=False)
    assert solution.status[1] == Status.SUCCESS
    assert solution.status[0] in (Status.STEP_TOO_SMALL, Status.NON_FINITE)
    assert solution.status[2] == Status.NON_FINITE
    assert torch.allclose(solution.ys[:, 1, 0], -1 / (1 + ts), atol=1e-5)
    assert torch.allclose(solution.ys[:2, 0, 0], 1 / (1 - ts[:2]), atol=1e-4)
    assert solution.ys[3:, 0].isnan().all()
    assert "1 of 3 samples" in solution.message
    assert "sample 0 at t = 1" in solution.message


def test_max_steps_per_sample():
    y0 = COUPLED_START.expand(2, 2)
    solution = solve(coupled, y0, (0.0, 10.0), per_sample=True, max_steps=4, throw=False)
    assert (solution.status == Status.MAX_STEPS).all()
    assert (solution.stats.accepted + solution.stats.rejected == 4).all()


@pytest.mark.parametrize("method", ["tsit5", "fehlberg2"])
def test_gradients_through_per_sample_steps(method, starts):
    """Against gradients of each trajectory solved alone, through y0, a parameter and the times."""
    ts = torch.linspace(0.0, 1.5, 4, dtype=F64, requires_grad=True)
    y0 = starts.clone().requires_grad_(True)
    a = torch.tensor(0.7, dtype=F64, requires_grad=True)
    weights = torch.randn(4, 5, 2, dtype=F64, generator=torch.Generator().manual_seed(1))

    def field(t, y):
        return van_der_pol(t, y) * a

    def gradients(loss):
        return torch.autograd.grad(loss, (y0, a, ts))

    kwargs = {"solver": method, "rtol": 1e-7, "atol": 1e-7}
    together = gradients((solve(field, y0, ts, per_sample=True, **kwargs).ys * weights).sum())
    alone = gradients(sum((solve(field, y0[i], ts, **kwargs).ys * weights[:, i]).sum() for i in range(5)))
    for mine, reference in zip(together, alone):
        assert torch.allclose(mine, reference, rtol=1e-6, atol=1e-8)


def test_batch_of_unequal_leaves_is_refused():
    with pytest.raises(ValueError, match="leading batch dimension"):
        solve(lambda t, y: y, (torch.ones(2, 1), torch.ones(3, 1)), (0.0, 1.0), per_sample=True)


# Every step, and dense output


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_every_accepted_step_of_each_sample(direction, starts):
    def field(t, y):
        return direction * van_der_pol(t, y)

    together = solve(field, starts, (0.0, 3.0 * direction), per_sample=True, save_at="steps")
    assert torch.equal(together.counts, together.stats.accepted + 1)
    for i, start in enumerate(starts):
        alone = solve(field, start, (0.0, 3.0 * direction), save_at="steps")
        count = int(together.counts[i])
        assert count == len(alone.ts)
        assert torch.allclose(together.ts[i, :count], alone.ts, atol=1e-10)
        assert torch.allclose(together.ys[:count, i], alone.ys, atol=1e-9)
        assert together.ts[i, count:].isnan().all()
        assert together.ys[count:, i].isnan().all()


@pytest.mark.parametrize("method", ["tsit5", "bosh3", "dopri8", "rodas5p"])
def test_dense_output_of_each_sample_is_what_it_saves(method):
    """Also at times of its own for every sample, backwards, and in its derivative by the query."""
    ts = torch.stack([torch.linspace(0, 1, 6, dtype=F64), torch.linspace(2, 5, 6, dtype=F64)])
    for ts in (ts, ts.flip(1)):
        y0 = coupled_exact(ts[:, 0])
        kwargs = {"per_sample": True, "rtol": 1e-7, "atol": 1e-7, "solver": method}
        saved = solve(coupled, y0, ts, **kwargs).ys
        dense = solve(coupled, y0, ts[:, [0, -1]], dense=True, **kwargs).dense
        assert torch.allclose(dense(ts), saved, atol=1e-12)
        query = ts[:, 2:4].clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(dense(query).sum(), query)
        exact = coupled(query, coupled_exact(query)).sum(-1)
        assert torch.allclose(slope, exact, atol=2e-3)
        with pytest.raises(ValueError, match="sample 1 is known"):
            dense(0.5)
        with pytest.raises(ValueError, match="or \\[2, T\\]"):
            dense(torch.zeros(3, 4))
    assert torch.allclose(dense(torch.tensor([[1.0], [5.0]])), saved[:1])


def test_dense_output_at_shared_times_and_of_trees():
    state = {"x": torch.ones(3, 2, dtype=F64), "v": torch.zeros(3, dtype=F64)}
    field = lambda t, s: {"x": -s["x"], "v": torch.cos(t)}  # noqa: E731
    dense = solve(field, state, (0.0, 2.0), per_sample=True, dense=True, rtol=1e-8, atol=1e-8).dense
    times = torch.tensor([0.3, 2.0, 0.0, 1.1], dtype=F64)
    assert torch.allclose(dense(times)["v"], torch.sin(times)[:, None].expand(4, 3), atol=1e-6)
    assert torch.allclose(dense(0.7)["x"], torch.full((3, 2), math.exp(-0.7), dtype=F64), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (0, 4)])
def test_one_output_time_or_no_sample_with_times_of_each_samples_own(shape):
    ts = torch.zeros(shape, dtype=torch.float64) + torch.arange(shape[1])
    y0 = torch.ones(shape[0], 2, dtype=torch.float64)
    solution = solve(lambda t, y: -y, y0, ts, per_sample=True)
    assert solution.ys.shape == (shape[1], *y0.shape)
    assert torch.equal(solution.ys[0], y0)
