"""Memory of the gradient methods: bytes alive at once, over the number of steps; and the rule of `auto`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.memory import PeakMemory
from odenets import solve
from odenets.solvers import Reversible as Coupled
from odenets.solvers.gradients import Auto, Autograd, Checkpoint, DiscreteAdjoint, Recursive
from odenets.solvers.gradients.binomial import Online, fewest_advances, placed, repetitions, split
from odenets.solvers.gradients.replay import Replay

SIZE = 20_000
BYTES = 8 * SIZE


class Decay(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, t, y):
        return -self.rate * torch.sin(t) * y


class Wide(Decay):
    def forward(self, t, y):
        return torch.tanh(torch.outer(torch.linspace(0, 1, 20, dtype=y.dtype), self.rate * y)).sum(0)


def peak(gradient, steps: int, solver="rk4", field: nn.Module | None = None) -> float:
    """Most states' worth of bytes alive during forward and backward."""
    field = field or Decay()
    y0 = torch.ones(SIZE, dtype=torch.float64, requires_grad=True)
    with PeakMemory() as memory:
        solve(field, y0, (0.0, 1.0), solver=solver, steps=steps, gradient=gradient).ys[-1].sum().backward()
    return memory.peak / BYTES


def test_bytes_are_counted_as_they_come_and_go():
    with PeakMemory() as memory:
        a = torch.ones(100)
        b = a[10:] * 2
        del a, b
        torch.ones(120)
    assert memory.live == 0
    assert memory.peak == 760  # 100 + 90 numbers of four bytes


@pytest.mark.parametrize("solver", ["reversible_heun", "alf", Coupled("euler")], ids=["heun", "alf", "coupled"])
def test_memory_of_reversible_does_not_grow_with_the_steps(solver):
    # the step sizes and times, 24 bytes a step and stage, are on the order of a thousandth of a state here
    assert peak("reversible", 1000, solver) <= 1.1 * peak("reversible", 10, solver)
    assert peak("autograd", 100, solver) > 5 * peak("autograd", 10, solver)


def test_memory_of_the_others_is_as_predicted():
    one_step = peak("recursive", 1)
    for slots in (4, 9):
        assert peak(Recursive(slots=slots), 120, "rk4") <= one_step + slots + 2
    assert 100 < peak("checkpoint", 120) - one_step < 125  # N states
    assert peak("autograd", 120) > 4 * 120
    # a field that keeps 20 times its state: one stage's graph instead of four, less its few states of its own
    assert peak("checkpoint", 2, field=Wide()) - peak("discrete_adjoint", 2, field=Wide()) > 2.5 * 20


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("n", [1, 2, 7, 40, 100])
def test_recursive_runs_as_few_steps_again_as_possible(monkeypatch, n, slots):
    """Against dynamic programming, which knows nothing of binomial coefficients."""
    advances = []
    monkeypatch.setattr(Replay, "advance", _counted(Replay.advance, advances))
    y0 = torch.ones(1, requires_grad=True)
    ys = solve(lambda t, y: -y, y0, (0.0, 1.0), solver="euler", steps=n, gradient=Recursive(slots), params=()).ys
    ys.sum().backward()
    # the forward solve takes all n steps, the optimum of the reversal counts n - 1 of them
    assert n - 1 + len(advances) == _fewest(n, slots)


def _counted(function, calls):
    def counted(self, n, state):
        calls.append(n)
        return function(self, n, state)

    return counted


def _fewest(n: int, slots: int) -> int:
    """Least number of advances to reverse n steps: by trying every place for the next checkpoint."""
    table: dict[tuple[int, int], int] = {}
    for s in range(1, slots + 1):
        for l in range(1, n + 1):
            if l == 1:
                table[l, s] = 0
            elif s == 1:
                table[l, s] = l * (l - 1) // 2
            else:
                table[l, s] = min(j + table[l - j, s - 1] + table[j, s] for j in range(1, l))
    return table[n, slots]


def test_binomial_formulas():
    assert repetitions(1000, 10) == 4
    assert fewest_advances(1000, 10) / 1000 == pytest.approx(3.6, abs=0.05)
    for slots in range(2, 7):
        for n in range(2, 60):
            j = split(n, slots)
            assert j + fewest_advances(n - j, slots - 1) + fewest_advances(j, slots) == _fewest(n, slots)


@pytest.mark.parametrize("slots", [3, 5, 10])
def test_online_placement_is_close_to_the_best(slots):
    """Wang, Moin and Iaccarino's guarantee is the least number of repetitions of any step; the sum is close as well."""
    for n in (2, 10, 57, 200, 1000, 3000):
        online = Online()
        for i in range(n):
            online.place(i, slots)
        places = list(online.levels)
        assert places[0] == 0
        assert len(places) == min(n, slots)
        total, most, end = n - 1, 0, n
        for k in reversed(range(len(places))):
            total += fewest_advances(end - places[k], slots - k)
            most = max(most, repetitions(end - places[k], slots - k))
            end = places[k]
        assert total <= 1.35 * fewest_advances(n, slots)
        assert most <= repetitions(n, slots)
        assert len(placed(n, slots)) <= slots


@pytest.mark.parametrize(
    ("settings", "budget", "expected"),
    [
        ({"solver": "rk4", "steps": 10}, 1e9, Autograd),
        ({"solver": "rk4", "steps": 10}, 25 * BYTES, Checkpoint),
        ({"solver": "rk4", "steps": 10}, 15 * BYTES, DiscreteAdjoint),
        ({"solver": "reversible_heun", "steps": 10}, 13 * BYTES, Recursive),
        ({"solver": "rk4", "steps": 10}, 5 * BYTES, Recursive),
        ({"solver": "dopri5"}, 1e9, Autograd),
        ({"solver": "dopri5"}, 150 * BYTES, Checkpoint),
        ({"solver": "explicit_adams", "steps": 10}, 1.0, Autograd),
        ({"solver": "auto_tsit5_rodas5p"}, 1.0, Autograd),
        ({"solver": "rk4", "steps": 10, "dense": True}, 1.0, Autograd),
    ],
)  # fmt: skip
def test_auto_follows_its_rule(monkeypatch, settings, budget, expected):
    chosen = []
    choose = Auto.choose

    def noted(self, problem):
        chosen.append(choose(self, problem))
        return chosen[-1]

    monkeypatch.setattr(Auto, "choose", noted)
    y0 = torch.ones(SIZE, dtype=torch.float64, requires_grad=True)
    gradients = []
    for gradient in (Auto(budget), "autograd"):
        solution = solve(Decay(), y0, (0.0, 1.0), gradient=gradient, **settings)
        gradients.append(torch.autograd.grad(solution.ys[-1].sum(), y0)[0])
    assert isinstance(chosen[0], expected)
    assert torch.allclose(*gradients, rtol=1e-12)


def test_auto_of_a_plain_function_is_autograd():
    y0 = torch.ones(1, requires_grad=True)
    solve(lambda t, y: -y, y0, (0.0, 1.0), gradient=Auto(1.0)).ys.sum().backward()
    assert y0.grad is not None
