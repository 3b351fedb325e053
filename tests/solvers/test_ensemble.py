"""Ensembles: every trajectory comes out as the per-sample loop solves it, as closed forms and reference digits have it."""

from __future__ import annotations

import math

import pytest
import torch

from odenets.solvers import InputError, PIDController, Status, solve
from odenets.solvers.ensemble import build

from .detest import PROBLEMS
from .fields import coupled, coupled_exact
from .stiff import STIFF, relative_error, robertson

F64 = torch.float64
pytestmark = pytest.mark.usefixtures("compiled")


def van_der_pol(t, y, mu):
    x, v = y.unbind(-1)
    return torch.stack([v, mu * (1 + torch.as_tensor(t).cos() ** 2) * (1 - x**2) * v - x], -1)


@pytest.fixture
def starts():
    return torch.randn(37, 2, dtype=F64, generator=torch.Generator().manual_seed(0)) * 2


@pytest.fixture
def mu():
    return torch.linspace(0.1, 3.0, 37, dtype=F64)


@pytest.mark.parametrize("method", ["tsit5", "dopri5", "rodas5p"])
def test_same_steps_and_states_as_the_per_sample_loop(method, starts, mu):
    """One program for both directions of time, all tolerances and all parameters."""
    for direction, rtol, start in ((1.0, 1e-6, starts), (-1.0, 1e-4, starts / 10)):
        ts = direction * torch.linspace(0, 2, 9, dtype=F64)
        both = [
            solve(van_der_pol, start, ts, solver=method, args=(mu,), rtol=rtol, atol=1e-6, **how)
            for how in ({"ensemble": True}, {"per_sample": True})
        ]
        assert torch.equal(both[0].stats.accepted, both[1].stats.accepted)
        assert torch.equal(both[0].stats.rejected, both[1].stats.rejected)
        assert both[0].stats.nfe == both[1].stats.nfe
        assert torch.allclose(both[0].ys, both[1].ys, rtol=1e-10, atol=1e-11)
    assert len(set(both[0].stats.accepted.tolist())) > 3  # the trajectories do differ


def test_step_control_settings_mean_what_they_mean_in_the_loop(starts, mu):
    controller = PIDController(0.3, 0.3, 0.05, safety=0.8, shrink_accepted=False)
    settings = {
        "controller": controller,
        "first_step": 0.01,
        "max_step": 0.2,
        "min_step": 0.02,
        "rtol": 1e-9,
        "args": (mu,),
    }
    both = [solve(van_der_pol, starts, (0.0, 2.0), **settings, **{how: True}) for how in ("ensemble", "per_sample")]
    assert torch.equal(both[0].stats.accepted, both[1].stats.accepted)
    assert torch.equal(both[0].stats.rejected, both[1].stats.rejected)
    assert torch.allclose(both[0].ys, both[1].ys, rtol=1e-10, atol=1e-11)


def test_own_times_for_every_trajectory_against_the_closed_form():
    starts = torch.linspace(0, 3, 40, dtype=F64)
    ts = starts[:, None] + torch.tensor([0.0, 0.1, 0.9, 2.5, 4.0], dtype=F64) * (1 + starts[:, None])
    y0 = coupled_exact(ts[:, 0])
    for dtype, rtol, wanted in ((F64, 1e-10, 1e-8), (torch.float32, 1e-5, 2e-4)):
        ys = solve(coupled, y0.to(dtype), ts, solver="tsit5", rtol=rtol, atol=rtol, ensemble=True).ys
        assert ys.dtype == dtype
        assert ys.shape == (5, 40, 2)
        assert (ys.transpose(0, 1) - coupled_exact(ts)).abs().max() < wanted


def test_single_precision_takes_the_loops_steps(starts, mu):
    start, mu = starts.float(), mu.float()
    settings = {"solver": "tsit5", "rtol": 1e-4, "atol": 1e-4, "args": (mu,)}
    both = [solve(van_der_pol, start, (0.0, 3.0), **settings, **{how: True}) for how in ("ensemble", "per_sample")]
    # rounding moves a step across the limit of acceptance now and then
    assert (both[0].stats.accepted - both[1].stats.accepted).abs().max() <= 1
    assert torch.allclose(both[0].ys, both[1].ys, rtol=1e-3, atol=1e-3)


def test_reference_digits_with_a_field_written_for_one_trajectory():
    problem = PROBLEMS["B4"]
    y0 = problem.y0.expand(11, -1)
    solution = solve(problem.field, y0, (0.0, 20.0), solver="tsit5", rtol=1e-10, atol=1e-10, ensemble=True)
    assert (solution.ys[-1] - problem.exact).abs().max() < 2e-7


def test_stiff_reference_digits():
    problem = STIFF["hires"]
    y0 = problem.y0.expand(9, -1)
    settings = {"rtol": 1e-7, "atol": problem.atol / 10, "ensemble": True}
    solution = solve(problem.field, y0, (0.0, problem.end), solver="rodas5p", **settings)
    assert relative_error(problem, solution.ys[-1]) < 1e-5
    assert int(solution.stats.accepted.max()) < 700


def lorenz(t, y, rho, constants):
    x, v, z = y.unbind(-1)
    return torch.stack([constants["sigma"] * (v - x), x * (rho - z) - v, x * v - constants["beta"] * z], -1)


def test_sweep_compiles_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.load.cache_clear()
    for batch, sigma, rtol, end in ((5, 10.0, 1e-6, 2.0), (70, 8.0, 1e-8, 3.0), (2, 9.0, 1e-7, 1.0)):
        rho = torch.linspace(0, 28, batch, dtype=F64)
        args = (rho, {"sigma": torch.tensor(sigma, dtype=F64), "beta": torch.tensor([8 / 3], dtype=F64)})
        y0 = torch.ones(batch, 3, dtype=F64)
        ours = solve(lorenz, y0, (0.0, end), args=args, rtol=rtol, ensemble=True)
        alone = solve(lorenz, y0[-1:], (0.0, end), args=(rho[-1:], args[1]), rtol=rtol, per_sample=True)
        assert torch.allclose(ours.ys[-1, -1], alone.ys[-1, 0], rtol=1e-8, atol=1e-8)
    assert len(list(tmp_path.rglob("*.so"))) == 1


def test_every_function_on_vectors():
    """Against PyTorch's own values: the derivative of a trajectory whose field they are, at its start, by tiny steps."""
    functions = [
        torch.exp, torch.sin, torch.cos, torch.tan, torch.tanh, torch.sinh, torch.cosh, torch.atan, torch.asin, torch.acos,
        torch.expm1, torch.log1p, torch.erf, torch.floor, torch.ceil, torch.abs, torch.sign, torch.sigmoid,
        torch.nn.functional.silu, torch.nn.functional.gelu, torch.nn.functional.softplus, torch.relu,
        lambda x: torch.sqrt(x.abs()), lambda x: torch.log(x.abs() + 1), lambda x: (x.abs() + 1) ** 0.7,
        lambda x: (x.abs() + 1) ** (x + 1), lambda x: x**5, lambda x: torch.atan2(x, x + 2),
        lambda x: torch.clamp(x, -0.5, 0.3),
        lambda x: torch.maximum(x, 0.1 - x), lambda x: torch.remainder(x, 0.4), lambda x: torch.where(x > 0.2, x**2, -x),
        lambda x: ((x > -0.3) & ~(x > 0.3)).to(x.dtype),
    ]  # fmt: skip

    def field(t, y, x):
        return torch.stack([f(x) for f in functions], -1)

    for dtype, tolerance in ((F64, 1e-12), (torch.float32, 2e-6)):
        x = torch.linspace(-0.93, 0.9, 21, dtype=dtype)
        y0 = torch.zeros(21, len(functions), dtype=dtype)
        ys = solve(field, y0, (0.0, 1.0), args=(x,), solver="bosh3", ensemble=True).ys
        assert torch.allclose(ys[-1], field(None, None, x), rtol=tolerance, atol=tolerance)


def test_one_failing_trajectory_leaves_the_others_solved():
    y0 = torch.tensor([[1.0], [-1.0], [math.nan]], dtype=F64)  # y' = y^2 has a pole at t = 1 for the first
    ts = torch.linspace(0, 2, 5, dtype=F64)
    solution = solve(lambda t, y: y**2, y0, ts, ensemble=True, throw=False)
    assert solution.status[1] == Status.SUCCESS
    assert solution.status[0] in (Status.STEP_TOO_SMALL, Status.NON_FINITE)
    assert solution.status[2] == Status.NON_FINITE
    assert torch.allclose(solution.ys[:, 1, 0], -1 / (1 + ts), atol=1e-5)
    assert torch.allclose(solution.ys[:2, 0, 0], 1 / (1 - ts[:2]), atol=1e-4)
    assert solution.ys[3:, 0].isnan().all()
    assert "sample 0 at t = 1" in solution.message
    few = solve(lambda t, y: y**2, -torch.ones(3, 1, dtype=F64), ts, ensemble=True, throw=False, max_steps=4)
    assert (few.status == Status.MAX_STEPS).all()
    assert (few.stats.accepted + few.stats.rejected == 4).all()


def test_batch_of_stiff_systems_with_rates_of_their_own():
    rates = torch.logspace(-1, 1, 12, dtype=F64)
    y0 = torch.tensor([[1.0, 0.0, 0.0]], dtype=F64).expand(12, 3)
    both = [
        solve(robertson, y0, (0.0, 1.0, 100.0), solver="rodas5p", args=(rates,), rtol=1e-6, atol=1e-10, **{how: True})
        for how in ("ensemble", "per_sample")
    ]
    assert torch.equal(both[0].stats.accepted, both[1].stats.accepted)
    assert torch.allclose(both[0].ys, both[1].ys, rtol=1e-8, atol=1e-12)


def test_empty_batches_and_states_that_are_numbers():
    for batch in (0, 3):
        y0 = torch.linspace(1, 2, batch, dtype=F64)
        solution = solve(lambda t, y: -y, y0, (0.0, 1.0), rtol=1e-9, atol=1e-9, ensemble=True)
        assert torch.allclose(solution.ys, torch.stack([y0, y0 * math.exp(-1)]), atol=1e-7)


def test_threads_share_the_trajectories():
    y0 = torch.linspace(1, 2, 1001, dtype=F64)
    threads = torch.get_num_threads()
    try:
        found = []
        for torch_threads in (1, 3):
            torch.set_num_threads(torch_threads)
            found.append(solve(lambda t, y: -y, y0, (0.0, 1.0), rtol=1e-9, atol=1e-9, ensemble=True).ys)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_programs_that_take_minutes_to_compile_are_refused():
    y0 = torch.ones(2, 8, 8, dtype=F64)
    with pytest.raises(InputError, match=r"takes \d+ operations on scalars, more than 20000: use per_sample=True"):
        solve(lambda t, y: (y[:, :, None] * y[:, None]).tanh().sum(1) @ y @ y, y0, (0.0, 1.0), ensemble=True)
