"""Gradients of compiled solves are those of the eager ones, and of closed forms."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from odenets import solve
from odenets.solvers import InputError, Reversible, SolveError
from odenets.solvers.compiled import capture, lanes, recorded, trace
from odenets.solvers.gradients import Recursive
from odenets.solvers.methods.alf import AsynchronousLeapfrog
from odenets.solvers.methods.reversible_heun import ReversibleHeun

F64 = torch.float64
MISSING = capture.why_unavailable("cpu") or capture.why_no_loops("cpu")
pytestmark = [
    pytest.mark.usefixtures("traced"),
    pytest.mark.skipif(bool(MISSING), reason=MISSING or "available"),
    pytest.mark.filterwarnings("error:solved eagerly"),
]
SLOW = pytest.mark.slow(reason="capturing a program takes seconds")
START = torch.tensor([[1.0, 0.4], [0.3, -0.5], [2.0, 1.0]], dtype=F64)
TIMES = torch.linspace(0.3, 2.0, 6, dtype=F64)
LOOSE: dict = {"rtol": 1e-4, "atol": 1e-4}


class Growth(nn.Module):
    """w cos(t) y: y = y0 exp(w (sin t - sin t0)), and its derivative in w is (sin t - sin t0) y."""

    def __init__(self, w: float = 0.7) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=F64))
        self.idle = nn.Parameter(torch.ones(3, dtype=F64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.w * torch.cos(t[:, None] if t.dim() else t) * y


class Pendulum(nn.Module):
    """(v, -w sin x + sin t)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.7, dtype=F64))
        self.register_buffer("sign", torch.tensor([1.0, -1.0], dtype=F64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        force = torch.stack((y[..., 1], self.w * torch.sin(y[..., 0])), -1) * self.sign
        return force + (torch.sin(t)[:, None] if t.dim() else torch.sin(t))


def gradients(field: nn.Module, ts, mode, weighted: bool = True, **settings):
    """The solution and the gradients of a sum over all output times with respect to y0 and w."""
    start = START.clone().requires_grad_()
    solution = solve(field, start, ts, compile=mode, **settings)
    ys = solution.ys
    weights = torch.arange(1.0, len(ys) + 1, dtype=F64) if weighted else torch.ones(len(ys), dtype=F64)
    loss = torch.einsum("t,tbi->", weights, ys.square())
    return solution, torch.autograd.grad(loss, [start, field.w])


def same_as_eager(field: nn.Module, ts, atol: float = 1e-11, **settings) -> int:
    """Returns the number of steps."""
    (mine, found), (eager, expected) = (gradients(field, ts, mode, **settings) for mode in ("solve", False))
    assert torch.equal(torch.as_tensor(mine.stats.accepted), torch.as_tensor(eager.stats.accepted))
    assert torch.allclose(mine.ys, eager.ys, rtol=0, atol=1e-13)
    for x, y in zip(found, expected):
        assert torch.allclose(x, y, rtol=1e-11, atol=atol)
    return int(torch.as_tensor(mine.stats.accepted).max())


def test_gradients_of_earlier_states_equal_the_closed_form_and_the_eager_ones():
    """Outputs inside steps and at the end; nothing is compiled again for other values, other times, another tolerance."""
    ts = TIMES
    solution, found = gradients(Growth(), ts, "solve", solver="fehlberg2", rtol=1e-8, atol=1e-8)
    exponent = torch.sin(ts) - torch.sin(ts[0])
    weights = torch.arange(1.0, 7.0, dtype=F64)
    squares = torch.einsum("t,tbi->tbi", torch.exp(1.4 * exponent) * weights, (START**2)[None].expand(6, 3, 2))
    assert torch.allclose(found[0], 2 * squares.sum(0) / START, rtol=1e-5)
    assert torch.allclose(found[1], (2 * exponent[:, None, None] * squares).sum(), rtol=1e-5)
    assert torch.allclose(solution.ys[-1], START * torch.exp(0.7 * exponent[-1]), rtol=1e-5)
    before = counters["stats"]["unique_graphs"]
    same_as_eager(Growth(-1.1), torch.linspace(1, 4, 9), solver="fehlberg2", **LOOSE)
    assert counters["stats"]["unique_graphs"] == before


def test_fixed_steps_by_recursive_checkpointing():
    """37 steps in three pieces, of which one is kept; the last is shorter; outputs in each."""
    ts = torch.linspace(0, 1.9, 38, dtype=F64)
    same_as_eager(Pendulum(), ts, solver="heun2", gradient=Recursive(slots=1))


@SLOW
@pytest.mark.parametrize("gradient", ["autograd", "checkpoint", "recursive"])
@pytest.mark.parametrize("solver", ["adaptive_heun", "bosh3", "tsit5", "dopri5", "dopri8"])
def test_adaptive_steps(solver, gradient, monkeypatch):
    monkeypatch.setattr(recorded, "PIECE", 4)
    tolerance = 1e-3 if solver == "adaptive_heun" else 1e-6
    same_as_eager(Pendulum(), TIMES, solver=solver, gradient=gradient, rtol=tolerance, atol=tolerance)


@SLOW
@pytest.mark.parametrize("gradient", ["checkpoint", "recursive"])
@pytest.mark.parametrize("solver", ["euler", "rk4", "dopri5"])
def test_fixed_steps(solver, gradient):
    same_as_eager(Pendulum(), (0.2, 2.0), solver=solver, gradient=gradient, steps=50)
    same_as_eager(Pendulum(), TIMES, solver=solver, gradient=gradient, step_size=0.034)


@SLOW
@pytest.mark.parametrize("ts", [TIMES, TIMES.flip(0), torch.stack([TIMES, 2 * TIMES, TIMES - 1]), (0.0, 1.5)])
def test_clock_per_sample(ts):
    """Samples that have arrived take steps of size zero while others go on."""
    same_as_eager(Pendulum(), ts, solver="bosh3", per_sample=True, rtol=1e-5, atol=1e-5)


def test_adjoint_in_given_steps():
    """Jumps of the adjoint at three output times; the parameters' gradient outside the state."""
    same_as_eager(Pendulum(), TIMES[[0, 2, 3, 5]], solver="heun2", gradient="adjoint", step_size=0.0425)


@SLOW
@pytest.mark.parametrize("solver", ["adaptive_heun", "bosh3", "tsit5", "dopri5", "dopri8"])
@pytest.mark.parametrize("ts", [TIMES, (1.5, 0.2)])
def test_adjoint_takes_the_steps_of_the_eager_one(solver, ts):
    tolerance = 1e-3 if solver == "adaptive_heun" else 1e-6
    same_as_eager(Pendulum(), ts, solver=solver, gradient="adjoint", rtol=tolerance, atol=tolerance)
    before = counters["stats"]["unique_graphs"]
    (mine, _), (eager, _) = (
        gradients(Growth(0.3), ts, mode, solver=solver, gradient="adjoint", rtol=1e-4, atol=tolerance)
        for mode in ("solve", False)
    )
    assert mine.stats.accepted_backward == eager.stats.accepted_backward
    assert mine.stats.rejected_backward == eager.stats.rejected_backward
    assert counters["stats"]["unique_graphs"] <= before + 3  # the other class's


@SLOW
def test_adjoint_equals_the_closed_form():
    _, found = gradients(Growth(), TIMES, "solve", solver="tsit5", gradient="adjoint", rtol=1e-9, atol=1e-9)
    exponent = torch.sin(TIMES) - torch.sin(TIMES[0])
    weights = torch.arange(1.0, 7.0, dtype=F64)
    squares = torch.einsum("t,tbi->tbi", torch.exp(1.4 * exponent) * weights, (START**2)[None].expand(6, 3, 2))
    assert torch.allclose(found[0], 2 * squares.sum(0) / START, rtol=1e-6)
    assert torch.allclose(found[1], (2 * exponent[:, None, None] * squares).sum(), rtol=1e-6)


@SLOW
def test_adjoint_with_a_norm_a_tree_and_a_first_step():
    def field(t, state):
        return {"a": weight * torch.cos(t) * state["b"], "b": -state["a"] + t}

    weight = torch.tensor([0.3, -0.2], dtype=F64, requires_grad=True)
    state = {"a": torch.ones(2, dtype=F64), "b": torch.tensor([0.5, 1.5], dtype=F64)}
    settings: dict = {"solver": "fehlberg2", "gradient": "adjoint", "params": (weight,), "first_step": 0.01}
    for norm in (None, lambda state: state["a"].abs().max()):
        found = []
        for mode in ("solve", False):
            ys = solve(
                field, state, (0.0, 0.4, 1.0), compile=mode, rtol=1e-5, atol=(1e-5, 1e-4), norm=norm, **settings
            ).ys
            found += torch.autograd.grad((ys["a"][1] * ys["b"][2]).sum(), weight)
        assert torch.allclose(*found, rtol=1e-10)


@SLOW
@pytest.mark.parametrize("settings", [{"solver": "bosh3", "rtol": 1e-3, "atol": 1e-3}, {"steps": 300}])
def test_adjoint_that_loses_the_path_is_an_error(settings):
    """y' = -20 y grows by e^60 on the way back."""

    class Decay(Growth):
        def forward(self, t, y):
            return -20 * self.w * y

    with pytest.raises(SolveError, match="lost the forward solve's path|backward solve of the adjoint failed"):
        gradients(Decay(1.0), (0.0, 3.0), "solve", gradient="adjoint", **{"solver": "euler", **settings})


REVERSIBLE = {
    "reversible_heun": "reversible_heun",
    "wide": ReversibleHeun(wide=True),
    "alf": "alf",
    "damped": AsynchronousLeapfrog(eta=0.9),
    "coupled": Reversible("rk4", coupling=0.999),
}


@pytest.mark.parametrize("name", [pytest.param(x, marks=SLOW) if x != "alf" else x for x in REVERSIBLE])
def test_reversible_methods_step_back(name):
    """Forward alone, with the gradient at all output times, and in one step."""
    solver, field = REVERSIBLE[name], Pendulum()
    same_as_eager(field, TIMES, solver=solver, gradient="reversible", step_size=0.0425)
    same_as_eager(field, (1.0, 0.9), solver=solver, gradient="reversible", steps=1)
    with torch.no_grad():
        found, expected = (
            solve(field, START, TIMES, solver=solver, steps=40, compile=mode).ys for mode in ("solve", False)
        )
    assert torch.allclose(found, expected, rtol=0, atol=1e-13)


@SLOW
def test_memory_of_the_reversible_backward_pass_is_that_of_the_outputs(monkeypatch):
    """No tensor grows with the number of steps but the grid and the row of each state."""
    largest = []
    for steps in (50, 400):
        sizes = []
        found = trace.call

        def noted(*given, found=found, sizes=sizes):
            outputs, read = found(*given)
            sizes.extend(x.numel() for x in (*given[3:], *outputs))
            return outputs, read

        monkeypatch.setattr(trace, "call", noted)
        start = torch.ones(600, 2, dtype=F64, requires_grad=True)
        ys = solve(Growth(), start, (0.0, 1.0), solver="alf", steps=steps, gradient="reversible", compile="solve").ys
        ys.sum().backward()
        monkeypatch.setattr(trace, "call", found)
        largest.append(max(sizes))
    assert largest[0] == largest[1] == 2 * 1200  # the outputs' row and the one that is written over


@SLOW
def test_backwards_in_time():
    same_as_eager(Pendulum(), TIMES.flip(0), solver="fehlberg2", **LOOSE)


@SLOW
def test_more_steps_than_there_was_room_for(monkeypatch):
    monkeypatch.setattr(recorded, "BYTES", 1)
    assert same_as_eager(Pendulum(), TIMES, solver="fehlberg2", rtol=1e-5, atol=1e-5) > 8


@SLOW
def test_function_that_closes_over_tensors_and_arguments():
    """Found by the capture: there is no module to ask. Trees of tensors, and a parameter given twice."""
    weight = torch.tensor([0.3, -0.2], dtype=F64, requires_grad=True)
    rate = torch.tensor(0.5, dtype=F64, requires_grad=True)

    def field(t, state, rate, again):
        return {"a": weight * torch.cos(t) * state["b"], "b": -rate * state["a"] + again * t}

    state = {"a": torch.ones(2, dtype=F64), "b": torch.tensor([0.5, 1.5], dtype=F64)}
    results = []
    for mode in ("solve", False):
        ys = solve(
            field, state, (0.0, 0.4, 1.0), solver="fehlberg2", args=(rate, rate), compile=mode, rtol=1e-4, atol=1e-4
        ).ys
        results.append(torch.autograd.grad((ys["a"][1] * ys["b"][2]).sum(), [weight, rate]))
    for found, expected in zip(*results):
        assert torch.allclose(found, expected, rtol=1e-10)


@SLOW
def test_parameters_that_the_field_does_not_reach():
    """None with autograd, zero where the parameters are asked for, as in eager solves."""
    for gradient, idle in (("autograd", None), ("checkpoint", torch.zeros(3, dtype=F64))):
        field = Growth()
        ys = solve(field, START, (0.0, 1.0), solver="fehlberg2", compile="solve", gradient=gradient, **LOOSE).ys
        w, found = torch.autograd.grad(ys[-1].sum(), [field.w, field.idle], allow_unused=True)
        assert torch.isclose(w, torch.sin(torch.tensor(1.0, dtype=F64)) * ys[-1].sum(), rtol=1e-2)
        assert found is idle if idle is None else torch.equal(found, idle)


@SLOW
def test_nothing_is_kept_alive_after_the_backward_pass():
    gradients(Pendulum(), TIMES, "solve", solver="fehlberg2", gradient="recursive", **LOOSE)
    gc.collect()  # what compiling left behind
    gc.disable()
    try:
        field = Pendulum()
        solution, _ = gradients(field, TIMES, "solve", solver="fehlberg2", gradient="recursive", **LOOSE)
        gone = weakref.ref(field)
        del field, solution
        assert gone() is None
    finally:
        gc.enable()


@SLOW
@pytest.mark.parametrize("what", ["random numbers", "in place"])
def test_fields_that_would_do_something_else_again_are_solved_eagerly(what):
    class Field(Growth):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros((), dtype=F64))

        def forward(self, t, y):
            if what == "in place":
                self.calls.add_(1)
                return super().forward(t, y)
            return super().forward(t, y) * (1 + 0 * torch.rand_like(y))

    with pytest.warns(UserWarning, match=what):
        found = gradients(Field(), (0.0, 1.0), "solve", solver="fehlberg2", **LOOSE)[1]
    assert torch.allclose(found[1], gradients(Growth(), (0.0, 1.0), False, solver="fehlberg2", **LOOSE)[1][1])


def test_what_is_not_differentiated():
    with pytest.raises(InputError, match="does not take gradient='interpolating_adjoint', only autograd"):
        solve(
            Growth(), START, (0.0, 1.0), compile="solve", gradient="interpolating_adjoint"
        )  # fmt: skip
    ts = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    with pytest.raises(InputError, match="gradients of the times"):
        solve(Growth(), START, ts, compile="solve")


@SLOW
@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "bosh3", "rtol": 1e-5, "atol": 1e-5},
        {"solver": "bosh3", "rtol": 1e-5, "atol": 1e-5, "per_sample": True},
        {"solver": "heun2", "step_size": 0.0425, "gradient": "adjoint"},
        {"solver": "alf", "step_size": 0.0425, "gradient": "reversible"},
    ],
)
def test_programs_from_the_cpp_compiler(settings, monkeypatch):
    """The real thing."""
    monkeypatch.undo()
    monkeypatch.setattr(lanes, "LARGEST", 0)
    capture.clear()
    same_as_eager(Pendulum(), TIMES, **settings)
