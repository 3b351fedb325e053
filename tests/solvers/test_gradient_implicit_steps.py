"""Exact gradient methods over implicit steps: autograd's gradient of the very steps, iterations included.

The field is stiff enough for Newton's iteration to stop at different iterates if it starts differently: methods that
solve the equations afresh differ from autograd by 1e-5 here.
"""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from benchmarks.memory import PeakMemory
from odenets import solve
from odenets.solvers import FixedPoint, InputError, NewtonKrylov, SplitField
from odenets.solvers.gradients import DiscreteAdjoint, Recursive

from .test_gradient_methods import TS, Field, assert_same, start, weighted

METHODS = {
    "checkpoint": "checkpoint",
    "recursive, 3 slots": Recursive(slots=3),
    "discrete_adjoint": "discrete_adjoint",
    "discrete_adjoint, 3 slots": DiscreteAdjoint(slots=3),
    "forward": "forward",
}
every_method = pytest.mark.parametrize("gradient", METHODS.values(), ids=METHODS)
SOLVES = {
    "implicit Euler": {"solver": "implicit_euler", "steps": 6},
    "theta, outputs off the grid": {"solver": "theta(0.7)", "step_size": 0.3},
    "explicit first stage, outputs are the grid": {"solver": "trapezoid"},
    "perturbed": {"solver": "trapezoid", "steps": 7, "perturb": True},
    "two implicit stages": {"solver": "sdirk2", "steps": 7},
    "first same as last": {"solver": "trbdf2", "steps": 5},
    "stages solved together": {"solver": "gl4", "steps": 7},
    "adaptive": {"solver": "kvaerno3", "rtol": 1e-3, "atol": 1e-4},
    "adaptive with rejections": {"solver": "kvaerno5", "rtol": 1e-3, "atol": 1e-4, "first_step": 1.0},
    "jumps, stages solved together": {
        "solver": "radauIIA5", "rtol": 1e-2, "atol": 1e-3, "first_step": 1.0, "jump_t": [0.2, 0.7],
    },
    "Krylov": {"solver": "trbdf2", "steps": 2, "nonlinear": NewtonKrylov(dense_limit=1, kappa=1e8)},
    "fixed point": {"solver": "kvaerno3", "rtol": 1e-1, "atol": 1e-1, "nonlinear": FixedPoint()},
}  # fmt: skip


class Stiff(Field):
    def forward(self, t: Tensor, y: Tensor, rate: Tensor | float = 1.0) -> Tensor:
        return 20 * super().forward(t, y, rate) - 5 * y**3


def results(gradient, ts: Tensor = TS, field: type[nn.Module] = Stiff, **settings) -> list[Tensor]:
    """Outputs and the gradients of y0, the times, the parameters and an argument."""
    module, y0, rate = field(), start(), torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    ts = ts.clone().requires_grad_(True)
    ys = solve(module, y0, ts, args=(rate,), gradient=gradient, **settings).ys
    weighted(ys).backward()
    return [ys.detach(), y0.grad, ts.grad, module.w.grad, module.c.grad, rate.grad]


@functools.cache
def by_autograd(name: str):
    return results("autograd", **SOLVES[name])


@every_method
@pytest.mark.parametrize("name", SOLVES)
def test_is_the_gradient_of_the_very_steps(gradient, name):
    assert_same(results(gradient, **SOLVES[name]), by_autograd(name))


@every_method
def test_backward_in_time_on_a_batch(gradient):
    def run(gradient):
        field, y0 = Field(), torch.stack([start().detach(), -2 * start().detach()]).requires_grad_(True)
        ys = solve(field, y0, TS.flip(0), gradient=gradient, solver="kvaerno3", rtol=1e-2, atol=1e-3).ys
        weighted(ys).backward()
        return [y0.grad, field.w.grad, field.c.grad]

    assert_same(run(gradient), run("autograd"))


@pytest.mark.slow  # a thousand Newton iterations, three times
@pytest.mark.parametrize("gradient", ["checkpoint", "recursive", "discrete_adjoint", "forward"])
def test_over_a_thousand_steps(gradient):
    y0 = start(1)
    found = []
    for method in ("autograd", gradient):
        ys = solve(
            lambda t, y: torch.sin(t) - y**3, y0, (0.0, 20.0), solver="implicit_euler", steps=1000, gradient=method,
            params=(),
        ).ys  # fmt: skip
        found.append(torch.autograd.grad(ys[-1].sum(), y0))
    assert_same(found[1], found[0], 1e-10)


@pytest.mark.parametrize("gradient", ["checkpoint", Recursive(slots=3)], ids=["checkpoint", "recursive"])
def test_additive_pairs_are_run_again_exactly(gradient):
    def run(gradient):
        w, y0 = torch.tensor(1.3, dtype=torch.float64, requires_grad=True), start()
        field = SplitField(lambda t, y: torch.sin(3 * t) * y.flip(-1), lambda t, y: -30 * w * (y**3 + y - torch.cos(t)))
        ys = solve(field, y0, TS, solver="kencarp4", rtol=1e-3, atol=1e-4, gradient=gradient, params=(w,)).ys
        weighted(ys).backward()
        return [y0.grad, w.grad]

    assert_same(run(gradient), run("autograd"))


def test_complex_states_are_run_again_exactly():
    def run(gradient):
        w = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        z = torch.tensor([1.0 + 0.5j, -0.3j], dtype=torch.complex128, requires_grad=True)
        field = lambda t, z: 1j * w * z * torch.cos(t) - 20 * (z - z.conj())  # noqa: E731
        solution = solve(field, z, TS, solver="kvaerno3", rtol=1e-3, atol=1e-4, gradient=gradient, params=(w,))
        weighted(solution.ys).backward()
        return [z.grad, w.grad]

    assert_same(run("checkpoint"), run("autograd"))
    for name in ("discrete_adjoint", "forward"):
        with pytest.raises(InputError, match="real states"):
            run(name)


def test_one_stages_graph_at_a_time():
    """A field that keeps 30 times its state, three implicit stages: the graphs of two of them are not alive."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

        def forward(self, t, y):
            return torch.tanh(torch.outer(torch.linspace(0, 1, 30, dtype=y.dtype), self.rate * y)).sum(0)

    def peak(gradient) -> float:
        y0 = torch.ones(5000, dtype=torch.float64, requires_grad=True)
        with PeakMemory() as memory:
            solve(Wide(), y0, (0.0, 1.0), solver="kvaerno3", steps=2, nonlinear=FixedPoint(dense_limit=1),
                  gradient=gradient).ys[-1].sum().backward()  # fmt: skip
        return memory.peak / (8 * y0.numel())

    assert peak("checkpoint") - peak("discrete_adjoint") > 2 * 30


@pytest.mark.parametrize("gradient", ["discrete_adjoint", "forward"])
@pytest.mark.parametrize("solver", ["rodas5p", "reversible_heun"])
def test_other_methods_are_refused(gradient, solver):
    with pytest.raises(InputError, match="needs a Runge-Kutta method"):
        solve(lambda t, y: -y, torch.ones(2), (0.0, 1.0), solver=solver, gradient=gradient, params=())
