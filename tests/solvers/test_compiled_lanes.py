"""Compiled solves of small systems as programs of scalars: the steps of the eager solve, captured once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from odenets import solve
from odenets.solvers import InputError, Status
from odenets.solvers.compiled import adaptive, capture, lanes, recorded

F64 = torch.float64
MISSING = capture.why_unavailable("cpu")
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=MISSING or "available"),
    pytest.mark.filterwarnings("error:solved eagerly"),
]
TIMES = torch.linspace(0.5, 2.5, 9, dtype=F64)


@pytest.fixture(autouse=True)
def only_lanes(compiled, monkeypatch):
    """No solve of these tests may fall back to the program of tensors."""
    capture.clear()
    monkeypatch.setattr(adaptive, "run", None)
    monkeypatch.setattr(recorded, "solve_adaptive", None)
    yield
    capture.clear()


class Forced(nn.Module):
    """(v, -w k x) + b sin t, for one trajectory or a batch."""

    def __init__(self, w: float = 0.7) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=F64))
        self.register_buffer("b", torch.tensor([0.1, 0.2], dtype=F64))
        self.k = 1.0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        x, v = y[..., 0], y[..., 1]
        return torch.stack((v, -self.w * self.k * x), -1) + torch.sin(t)[..., None] * self.b


def stiff(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
    """y' = -rate (y - cos t) - sin t: the solution from 1 is cos t (A. Prothero and A. Robinson, 1974)."""
    time = t[..., None]
    return -rate * (y - torch.cos(time)) - torch.sin(time)


def both(field, y0, ts, **settings):
    found = solve(field, y0, ts, compile="solve", throw=False, **settings)
    return found, solve(field, y0, ts, throw=False, **settings)


def same(found, eager, atol: float = 1e-9) -> None:
    assert torch.equal(torch.as_tensor(found.stats.accepted), torch.as_tensor(eager.stats.accepted))
    assert torch.equal(torch.as_tensor(found.stats.rejected), torch.as_tensor(eager.stats.rejected))
    assert torch.allclose(found.ys, eager.ys, rtol=0, atol=atol, equal_nan=True)
    assert torch.equal(torch.as_tensor(found.status), torch.as_tensor(eager.status))


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("settings", [{"compile": "solve"}, {"ensemble": True, "per_sample": True}])
def test_second_derivatives_are_refused_rather_than_left_out(settings):
    """That of a plain sum, whose incoming gradient requires none."""
    rate, start = torch.tensor(1.3, dtype=F64, requires_grad=True), torch.ones(2, 1, dtype=F64, requires_grad=True)
    settings = {"per_sample": True, **settings}
    loss = solve(lambda t, y, p: -p * y * y, start, (0.0, 1.0), args=(rate,), **settings).ys[-1].sum()
    (gradient,) = torch.autograd.grad(loss, start, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        gradient.square().sum().backward()


@torch.no_grad()
def test_one_trajectory_is_captured_once():
    y0 = torch.tensor([1.0, 0.2], dtype=F64)
    field = Forced()
    found, eager = both(field, y0, TIMES, solver="bosh3", rtol=1e-5)
    same(found, eager)
    assert found.stats.nfe == eager.stats.nfe
    before = graphs()
    field.w.fill_(2.0)
    same(*both(field, 3 * y0, TIMES.flip(0), solver="bosh3", rtol=1e-7, max_step=0.3))
    same(*both(Forced(0.3), y0, (0.0, 1.0), solver="bosh3", first_step=0.01))
    assert graphs() == before
    field.k = 3.0
    same(*both(field, y0, TIMES, solver="bosh3"))


@torch.no_grad()
def test_clock_per_sample_with_parameters_of_its_own():
    def field(t: Tensor, y: Tensor, rate: Tensor, shared: Tensor) -> Tensor:
        return torch.stack((y[:, 1], -rate * y[:, 0] + shared[0] * torch.cos(t)), 1)

    shared = torch.tensor([0.5], dtype=F64)
    for batch in (5, 7, 3):
        if batch == 3:
            before = graphs()
        y0, rate = torch.randn(batch, 2, dtype=F64), torch.rand(batch, dtype=F64) * 30
        ts = TIMES + torch.rand(batch, 1, dtype=F64) if batch == 7 else TIMES
        same(*both(field, y0, ts, solver="bosh3", rtol=1e-5, per_sample=True, args=(rate, shared)))
    assert graphs() == before  # the batch's size is no part of the graph


@torch.no_grad()
@pytest.mark.parametrize("solver", ["rodas5p", "kvaerno3", "radauIIA5"])
def test_stiff_method_in_both_forms(solver):
    for rate, y0, settings in (
        (torch.tensor([1e4], dtype=F64), torch.ones(1, dtype=F64), {}),
        (torch.tensor([[1e3], [1e6]], dtype=F64), torch.ones(2, 1, dtype=F64), {"per_sample": True}),
    ):
        ts = torch.tensor([0.0, 1.0, 3.0], dtype=F64)
        tolerance = 1e-7 if solver == "rodas5p" else 1e-5
        found, eager = both(stiff, y0, ts, solver=solver, rtol=tolerance, atol=tolerance, args=(rate,), **settings)
        same(found, eager, 10 * tolerance)  # a rounding error of the step size, times the rate
        assert torch.allclose(found.ys.reshape(3, -1), torch.cos(ts)[:, None], rtol=0, atol=100 * tolerance)


@pytest.mark.parametrize("settings", [{}, {"per_sample": True}])
def test_gradient_is_that_of_the_steps(settings):
    field = Forced()
    y0 = torch.tensor([[1.0, 0.2], [0.3, -1.0]], dtype=F64, requires_grad=True)
    weights = torch.randn(len(TIMES), 2, 2, dtype=F64)
    grads = []
    for mode in ("solve", False):
        starts = [y0] if settings else list(y0)
        found = [solve(field, y, TIMES, solver="bosh3", rtol=1e-4, compile=mode, **settings).ys for y in starts]
        ys = found[0] if settings else torch.stack(found, 1)
        grads.append(torch.autograd.grad((ys * weights).sum(), [y0, field.w]))
    for mine, eager in zip(*grads):
        assert torch.allclose(mine, eager, rtol=1e-7)


@torch.no_grad()
def test_field_that_counts_is_not_captured_at_every_call():
    class Counting(Forced):
        calls = 0

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(t, y)

    field, y0 = Counting(), torch.ones(2, dtype=F64)
    before = graphs()
    for _ in range(6):
        solve(field, y0, TIMES, solver="bosh3", compile="solve")
    assert graphs() <= before + 3
    assert field.calls > 0


@torch.no_grad()
def test_tree_of_tensors():
    def field(t: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"x": state["v"], "v": -state["x"] * torch.sin(t)[:, None]}

    y0 = {"x": torch.ones(2, 1, dtype=F64), "v": torch.tensor([[0.0], [1.0]], dtype=F64)}
    found, eager = both(field, y0, TIMES, solver="bosh3", per_sample=True, atol=(1e-6, 1e-7))
    for name in y0:
        assert torch.allclose(found.ys[name], eager.ys[name], rtol=0, atol=1e-9)


@torch.no_grad()
def test_failures_have_their_cause():
    one = torch.ones(1, dtype=F64)
    found, eager = both(lambda t, y: y * y, one, (0.0, 0.5, 2.0))
    assert found.status is eager.status is Status.STEP_TOO_SMALL
    assert "underflow in dt at t = 1" in found.message
    assert found.ys[2].isnan().all()
    found, eager = both(lambda t, y: torch.log(0.5 - t) * y, one, (0.0, 2.0))
    assert found.status is eager.status is Status.NON_FINITE
    assert "the vector field is NaN or infinite" in found.message
    found, eager = both(lambda t, y: -y, one, (0.0, 2.0), max_steps=3)
    assert found.message == eager.message
    size = {"solver": "kvaerno3", "first_step": 10.0, "min_step": 10.0, "max_step": 10.0}
    found, eager = both(lambda t, y: 3 * (1 + y**2), one, (0.0, 20.0), **size)
    assert found.status is eager.status is Status.NONLINEAR
    assert found.message == eager.message


@torch.no_grad()
def test_what_is_not_for_scalars(monkeypatch):
    """It goes on to the program of tensors, every time."""
    chosen = torch.tensor([0])
    taken = []
    monkeypatch.setattr(adaptive, "solve_compiled", lambda problem: taken.append(problem))
    y0 = torch.ones(3, dtype=F64)
    for _ in range(2):
        solve(lambda t, y: -y * y[chosen], y0, (0.0, 1.0), compile="solve")
    solve(lambda t, y: -y, torch.ones(17, dtype=F64), (0.0, 1.0), compile="solve")
    monkeypatch.setattr(lanes, "MOST_OPERATIONS", 5)

    def decay(t, y):
        return -2 * y

    for solver in ("dopri5", "rodas5p", "dopri5"):  # too long for one method, not for another
        solve(decay, y0, (0.0, 1.0), compile="solve", solver=solver)
    assert len(taken) == 5


@torch.no_grad()
def test_a_number_that_changes_is_compiled_in_a_few_times_only(monkeypatch):
    taken = []
    monkeypatch.setattr(adaptive, "solve_compiled", lambda problem: taken.append(problem))
    monkeypatch.setattr(lanes, "MOST_PROGRAMS", 1)
    y0 = torch.tensor(1.0, dtype=F64)
    for rate in (1.0, 2.0):
        assert not taken
        solve(
            lambda t, y, rate: -rate * y * torch.eye(1, dtype=F64)[0, 0], y0, (0.0, 1.0), compile="solve", args=(rate,)
        )
    assert len(taken) == 1


def test_too_many_parameters_for_sensitivities_go_through_the_steps():
    weights = torch.randn(6, 6, dtype=F64, requires_grad=True)
    # the program of tensors, which these tests do not have, nor older versions of PyTorch
    with pytest.raises((TypeError, InputError)):
        solve(lambda t, y: weights @ y, torch.ones(6, dtype=F64), (0.0, 1.0), compile="solve")
    with pytest.raises(InputError, match="does not take gradient"):
        solve(lambda t, y: -y, weights, (0.0, 1.0), compile="solve", gradient="interpolating_adjoint")
