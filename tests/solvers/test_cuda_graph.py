"""Fixed-step solves as CUDA graphs: what a replay reads anew, and what is recorded anew. On the CPU with a stand-in."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from odenets import solve
from odenets.solvers import InputError, SolveError, odeint
from odenets.solvers.compiled import capture, cuda_graph

from ..cuda_stand_in import StandIn, install
from .fields import COUPLED_START, coupled, coupled_exact

F64 = torch.float64
SLOW = pytest.mark.slow(reason="capturing a field takes a second")
START = torch.tensor([[1.0, 0.0], [0.3, -0.5], [2.0, 1.0]], dtype=F64)


@pytest.fixture
def graphs(monkeypatch) -> type[StandIn]:
    capture.clear()
    return install(monkeypatch)


class Driven(nn.Module):
    """w k (y2, -y1) + b sin t."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.7, dtype=F64))
        self.register_buffer("b", torch.tensor([0.1, 0.2], dtype=F64))
        self.k = 1.0

    def forward(self, t: Tensor, y: Tensor, shift: float | Tensor = 0.0) -> Tensor:
        k = self.k if self.training else 3 * self.k
        return torch.stack((y[..., 1], -y[..., 0]), -1) * self.w * k + torch.sin(t) * self.b + shift


def agree(field, y0, ts, **settings) -> Tensor:
    with torch.no_grad():
        found, eager = (solve(field, y0, ts, compile=mode, **settings) for mode in ("cuda_graph", False))
    torch.testing.assert_close(found.ys, eager.ys, rtol=0, atol=1e-13)
    assert found.success and torch.equal(found.ts, eager.ts)
    assert found.stats.nfe == eager.stats.nfe and found.stats.accepted == eager.stats.accepted
    return found.ys


@pytest.mark.parametrize("solver", [pytest.param("euler", marks=SLOW), "rk4", "dopri5"])
def test_exact_solution_and_eager_steps(graphs, solver):
    """Of a field that depends on time; dopri5 hands its last stage on, the others do not."""
    ts = torch.tensor([0.0, 0.5, 2.0], dtype=F64)
    ys = agree(coupled, COUPLED_START, ts, solver=solver, steps=40)
    bound = {"euler": 0.2, "rk4": 1e-5, "dopri5": 1e-7}[solver]
    torch.testing.assert_close(ys, coupled_exact(ts), rtol=0, atol=bound)
    assert (graphs.recorded, graphs.replays) == (1, 1)


def test_what_is_an_input(graphs):
    """Starts, times, values of parameters and buffers, arguments: nothing is recorded again, and results stay."""
    field, ts = Driven(), torch.linspace(0, 2, 5)
    first = agree(field, START, ts, solver="rk4", steps=8, args=(torch.tensor(0.1, dtype=F64),))
    kept = first.clone()
    with torch.no_grad():
        field.w.fill_(1.3)
        field.b = torch.tensor([0.5, 0.0], dtype=F64)
    agree(field, 2 * START, 3 - ts, solver="rk4", steps=8, args=(torch.tensor(0.2, dtype=F64),))
    assert (graphs.recorded, graphs.replays) == (1, 2)
    assert torch.equal(first, kept)


def test_what_is_recorded_anew(graphs):
    field, ts = Driven(), (0.0, 2.0)
    changes = [
        lambda: None,
        lambda: setattr(field, "w", nn.Parameter(torch.tensor(0.9, dtype=F64))),
        lambda: setattr(field, "k", 2.0),
        lambda: field.eval(),
    ]
    kept = [field.w]  # or a new one may lie where it lay
    for count, change in enumerate(changes, 1):
        change()
        kept.append(field.w)
        agree(field, START, ts, solver="rk4", steps=4)
        assert graphs.recorded == count
    agree(field, START[:2], ts, solver="rk4", steps=4)
    agree(field, START[:2], ts, solver="rk4", steps=5)
    assert graphs.recorded == len(changes) + 2


@SLOW
def test_trees_and_odeint(graphs):
    def field(t, state):
        x, v = state
        return v * torch.cos(t), -x.sum(-1, keepdim=True) + v

    start = (START, START[:, :1].clone())
    with torch.no_grad():
        found, eager = (
            solve(field, start, (0.0, 1.0), solver="rk4", steps=3, compile=m) for m in ("cuda_graph", False)
        )
        for mine, theirs in zip(found.ys, eager.ys):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-14)
        ts = torch.linspace(0, 1, 4)
        ys = [odeint(Driven(), START, ts, method="rk4", compile=mode) for mode in ("cuda_graph", False)]
    torch.testing.assert_close(ys[0], ys[1], rtol=0, atol=1e-14)
    assert graphs.recorded == 2


def test_few_graphs_are_kept_and_no_field(graphs, monkeypatch):
    monkeypatch.setattr(cuda_graph, "GRAPHS", 2)
    field = Driven()
    for steps in (2, 3, 4):
        agree(field, START, (0.0, 1.0), solver="euler", steps=steps)
    assert len(cuda_graph._graphs) == 2
    ghost = weakref.ref(field)
    del field
    gc.collect()
    assert ghost() is None


def test_a_failed_solve_says_so(graphs):
    with torch.no_grad(), pytest.raises(SolveError, match="non-finite values in the state"):
        solve(lambda t, y: y * 1e200, START, (0.0, 1.0), solver="rk4", steps=4, compile="cuda_graph")


class Notes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(2, dtype=F64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.seen.add_(1)
        return -y


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (lambda t, y: y * torch.tensor([1.0, -1.0], dtype=F64), "not permitted when stream is capturing"),
        (lambda t, y: y if y.sum() > 0 else -y, "depends on a tensor's value"),
        (Notes(), "changes a tensor in place"),
    ],
)
def test_what_cannot_be_recorded_is_named_and_solved_eagerly(graphs, field, reason):
    with torch.no_grad(), pytest.warns(UserWarning, match=rf"solved eagerly.*\.py:\d+: .*{reason}"):
        found = solve(field, START, (0.0, 1.0), solver="rk4", steps=4, compile="cuda_graph")
    assert torch.equal(found.ys, solve(field, START, (0.0, 1.0), solver="rk4", steps=4).ys)


def test_what_is_refused(graphs):
    def refused(match: str, field=coupled, **settings) -> None:
        with pytest.raises(InputError, match=match):
            solve(field, COUPLED_START, (0.0, 1.0), compile="cuda_graph", **settings)

    refused("does not take Adaptive, only FixedStep")
    refused("does not take method 'kvaerno3', only explicit", solver="kvaerno3", steps=2)
    refused("does not take dense=True", solver="rk4", steps=2, dense=True)
    refused("has no gradients: solve under torch.no_grad", Driven(), solver="rk4", steps=2)


def test_needs_a_gpu():
    with pytest.raises(InputError, match="'cuda_graph' does not take states on cpu, only on CUDA: use compile='auto'"):
        solve(coupled, COUPLED_START, (0.0, 1.0), solver="rk4", steps=2, compile="cuda_graph")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    field, start = Driven().cuda(), START.cuda()
    for scale in (1.0, 2.0):
        agree(field, scale * start, torch.linspace(0, 2 * scale, 5, device="cuda"), solver="rk4", steps=40)
        with torch.no_grad():
            field.w.mul_(1.5)
    assert len(cuda_graph._graphs) == 1
