"""Corners where something was once wrong, or would be if two parts disagreed."""

from __future__ import annotations

import functools
import gc
import math
import warnings

import pytest
import torch
import torchdiffeq
from torch import nn

from odenets import odeint, odeint_adjoint, odeint_dense, odeint_event, solve
from odenets.solvers import IMPLICIT_TABLEAUS, TABLEAUS, InputError, SolveError, Status
from odenets.solvers.solver import ADAPTIVE_METHODS

from .fields import ANY_FIELD, COUPLED_START, coupled, coupled_exact

F64 = torch.float64
ONE = torch.ones(1, dtype=F64)
# of the implicit methods one with a block per stage and one that solves all stages together
LEFT_OUT = {"scipy_solver", "torchdiffeq", *IMPLICIT_TABLEAUS} - {"trbdf2", "radauIIA5", "implicit_euler"}
STEPPING = [name for name in ANY_FIELD if name not in LEFT_OUT]


def decay(t, y):
    return -y


class Decay(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.7, dtype=F64))

    def forward(self, t, y, *args):
        return -self.rate * y


# Dense output


@pytest.mark.parametrize("method", STEPPING)
def test_dense_output_is_what_the_same_solve_saves(method):
    """Also for methods whose interpolant needs f at the step's end, which only the solve can evaluate."""
    ts = torch.linspace(0, 2, 17, dtype=F64)
    kwargs = {} if method in ADAPTIVE_METHODS else {"step_size": 0.3}
    saved = solve(coupled, COUPLED_START, ts, solver=method, **kwargs).ys
    dense = solve(coupled, COUPLED_START, (0.0, 2.0), solver=method, dense=True, **kwargs).dense
    assert torch.allclose(dense(ts), saved, atol=1e-13)


def test_dense_output_takes_any_query():
    dense = solve(coupled, COUPLED_START, (0.0, 2.0), dense=True).dense
    at_end = dense(torch.full((3000,), 2.0, dtype=F64))
    assert torch.equal(at_end, at_end[:1].expand(3000, 2))
    assert dense(torch.empty(0)).shape == (0, 2)
    shuffled = torch.tensor([1.3, 0.2, 2.0, 1.3, 0.0], dtype=F64)
    assert torch.allclose(dense(shuffled), coupled_exact(shuffled), atol=1e-4)


def test_dense_output_is_differentiable_by_the_query_everywhere():
    for t in (1.0, 0.9999):
        query = torch.tensor(t, dtype=F64, requires_grad=True)
        ts = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
        dense = solve(decay, ONE, ts, dense=True, rtol=1e-9, atol=1e-9).dense
        (slope,) = torch.autograd.grad(dense(query).sum(), query)
        assert float(slope) == pytest.approx(-math.exp(-t), rel=1e-5)


def test_dense_output_keeps_the_digits_of_plain_numbers():
    dense = odeint_dense(decay, torch.ones(1), 0.1, 0.7)
    assert float(dense(0.1)) == 1.0
    assert float(dense(0.7)) == pytest.approx(math.exp(-0.6), rel=1e-5)


def test_recorded_steps_leave_no_cycle_behind():
    class Watched(Decay):
        alive = 0

        def forward(self, t, y):
            value = super().forward(t, y)
            type(self).alive += 1
            import weakref

            weakref.finalize(value, self.forget)
            return value

        @classmethod
        def forget(cls):
            cls.alive -= 1

    gc.collect()
    gc.disable()
    try:
        for kwargs in ({"dense": True}, {"save_at": "steps"}, {"dense": True, "solver": "rk4", "steps": 9}):
            solution = solve(Watched(), ONE, (0.0, 1.0), **kwargs)
            del solution
            assert Watched.alive == 0
    finally:
        gc.enable()


# Stops


@pytest.mark.parametrize("method", [name for name, tableau in TABLEAUS.items() if tableau.adaptive])
def test_outputs_in_the_step_before_a_jump_know_nothing_of_it(method):
    def field(t, y):
        return torch.where(t < 0.5, 1.0, -5.0) * torch.ones_like(y)

    ts = torch.linspace(0, 1, 41, dtype=F64)
    exact = torch.where(ts <= 0.5, ts, 0.5 - 5 * (ts - 0.5))
    for direction in (1, -1):
        start = exact[:1] if direction == 1 else exact[-1:]
        wanted = exact if direction == 1 else exact.flip(0)
        ys = solve(
            field, start, ts[::1] if direction == 1 else ts.flip(0), solver=method, jump_t=[0.5], first_step=0.7
        ).ys
        assert torch.allclose(ys[:, 0], wanted, atol=1e-12)


@pytest.mark.parametrize("option", ["step_t", "jump_t"])
@pytest.mark.parametrize("times", [[0.0, 0.6, 1.0], [1.0, 0.3, 0.0], [0.0, 0.5, 0.9]])
def test_gradients_reach_the_times_through_stops(option, times):
    def run(y0, t):
        return odeint(coupled, y0, t, rtol=1e-10, atol=1e-12, options={option: torch.tensor([0.5])})

    y0 = COUPLED_START.clone().requires_grad_(True)
    t = torch.tensor(times, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (y0, t), atol=1e-5)


def test_a_step_that_rounds_onto_a_stop_ends_there():
    t = torch.tensor([1e9, 1e9 + 1], dtype=F64)
    options = {"first_step": 0.1 - 1e-8, "jump_t": torch.tensor([1e9 + 0.1], dtype=F64)}
    assert float(odeint(decay, ONE, t, options=options)[-1]) == pytest.approx(math.exp(-1), rel=1e-6)
    options = {"first_step": 0.09997, "jump_t": torch.tensor([1000.1]), "dtype": torch.float32}
    ys = odeint(decay, torch.ones(1), torch.tensor([1000.0, 1001.0]), options=options)
    assert float(ys[-1]) == pytest.approx(math.exp(-1), rel=1e-3)


def test_half_precision_times_do_not_drift():
    t = torch.tensor([0.0, 8.0], dtype=torch.float32)
    ys = odeint(lambda t, y: 2 * t, torch.zeros(1), t, options={"dtype": torch.bfloat16})
    theirs = torchdiffeq.odeint(lambda t, y: 2 * t, torch.zeros(1), t, options={"dtype": torch.bfloat16})
    assert float(ys[-1]) == pytest.approx(64.0, abs=1e-2 + abs(float(theirs[-1]) - 64.0))


# Gradients


def test_a_tensor_given_twice_gets_its_gradient_once():
    module = Decay()
    for kwargs in ({"args": (module.rate,)}, {"params": (module.rate, module.rate)}):
        module.rate.grad = None
        solve(module, ONE, (0.0, 1.0), gradient="adjoint", **kwargs).ys[-1].sum().backward()
        assert float(module.rate.grad) == pytest.approx(-math.exp(-0.7), rel=1e-4)


def test_the_adjoint_finds_parameters_in_partials_and_module_arguments():
    linear = nn.Linear(1, 1, dtype=F64)
    solve(functools.partial(Decay(), 0), ONE, (0.0, 1.0), gradient="adjoint")  # no error: the module is seen

    class Uses(nn.Module):
        def forward(self, t, y, module):
            return module(y)

    solve(Uses(), ONE, (0.0, 1.0), args=(linear,), gradient="adjoint").ys[-1].sum().backward()
    assert float(linear.weight.grad.abs()) > 0.1


def test_adjoint_of_a_field_that_uses_what_was_computed_from_its_parameters():
    """As cached parametrisations do: one graph, used at every evaluation."""
    w = torch.tensor(0.8, dtype=F64, requires_grad=True)
    computed = torch.tanh(w) ** 2
    odeint_adjoint(lambda t, y: -computed * y, ONE, torch.tensor([0.0, 1.0], dtype=F64), adjoint_params=(w,))[
        -1
    ].backward()
    value = math.tanh(0.8)
    assert float(w.grad) == pytest.approx(-math.exp(-(value**2)) * 2 * value * (1 - value**2), rel=1e-5)


def test_per_sample_gradients_survive_a_trial_step_into_nan():
    """y' = -a sqrt(y) from 1 and 4; the first trial of 1.9 leaves the square root's domain and is refused."""
    gradients = []
    for per_sample in (True, False):
        a = torch.tensor(1.0, dtype=F64, requires_grad=True)
        y0 = torch.tensor([[1.0], [4.0]], dtype=F64)
        solution = solve(
            lambda t, y, a=a: -a * torch.sqrt(y), y0, (0.0, 1.9), first_step=1.9, rtol=1e-8, per_sample=per_sample
        )
        exact = (torch.sqrt(y0) - 1.9 / 2).square()
        assert torch.allclose(solution.ys[-1], exact, rtol=1e-4)
        gradients.append(float(torch.autograd.grad(solution.ys[-1].sum(), a)[0]))
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-5)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_forward_mode_through_times_and_states(method):
    t, direction = torch.tensor([0.0, 1.0], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    options = {"step_size": 0.1} if method == "rk4" else {}
    kwargs = {"method": method, "options": options, "rtol": 1e-9, "atol": 1e-10}
    _, slope = torch.func.jvp(lambda t: odeint(decay, ONE, t, **kwargs)[1, 0], (t,), (direction,))
    assert float(slope) == pytest.approx(-math.exp(-1), rel=1e-4)
    _, slope = torch.func.jvp(lambda y: odeint(decay, y, t, **kwargs)[1, 0], (ONE,), (ONE,))
    assert float(slope) == pytest.approx(math.exp(-1), rel=1e-4)


def test_scipy_promises_no_gradients_in_the_dropin():
    y0 = ONE.clone().requires_grad_(True)
    assert not odeint(decay, y0, torch.tensor([0.0, 1.0]), method="scipy_solver").requires_grad


def test_adjoint_runs_the_field_in_the_same_precision_backward():
    seen = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, t, y):
            out = self.linear(y)
            seen.append(out.dtype)
            return out

    with torch.autocast("cpu", dtype=torch.bfloat16):
        ys = solve(Net(), torch.ones(3, 2), (0.0, 1.0), gradient="adjoint", solver="rk4", steps=3).ys
    ys.sum().backward()
    assert set(seen) == {torch.bfloat16}


# Events


def test_event_that_is_a_switch_or_wanted_without_gradients():
    t0 = torch.tensor(0.0, dtype=F64)
    switch = lambda t, y: (t < 1).to(y) * 2 - 1  # noqa: E731
    assert float(odeint_event(decay, ONE, t0, event_fn=switch)[0]) == pytest.approx(1.0, abs=1e-7)
    with torch.inference_mode():
        t, _ = odeint_event(decay, ONE, t0, event_fn=lambda t, y: y[0] - 0.5)
    assert float(t) == pytest.approx(math.log(2), abs=1e-7)


def test_event_at_the_very_start_is_differentiable():
    y0 = ONE.clone().requires_grad_(True)
    t, y = odeint_event(
        Decay(), y0, torch.tensor(0.0, dtype=F64), event_fn=lambda t, y: y[0] - 1.0, odeint_interface=odeint_adjoint
    )
    assert float(t.detach()) == 0.0
    y.sum().backward()
    assert torch.isfinite(y0.grad).all()


def test_many_small_adaptive_steps_may_lead_to_an_event():
    t, _ = odeint_event(
        lambda t, y: torch.ones_like(y), torch.zeros(1, dtype=F64), torch.tensor(0.0, dtype=F64),
        event_fn=lambda t, y: y[0] - 2.1, method="adaptive_heun", options={"max_step": 1e-4},
    )  # fmt: skip
    assert float(t) == pytest.approx(2.1, abs=1e-6)


# Input, failures


def test_a_failed_fixed_step_solve_is_never_a_success():
    def cubic(t, y):
        return y**3

    start = torch.tensor([10.0], dtype=F64)
    for gradient in ("autograd", "adjoint"):
        kwargs = {"solver": "euler", "steps": 20, "gradient": gradient, "params": ()}
        with pytest.raises(SolveError, match="non-finite"):
            solve(cubic, start, (0.0, 1.0), **kwargs)
        solution = solve(cubic, start, (0.0, 1.0), throw=False, **kwargs)
        assert solution.status == Status.NON_FINITE
        with pytest.raises(SolveError):
            solution.raise_if_failed()


def test_an_interval_below_the_step_size_is_one_step():
    assert torch.allclose(solve(decay, ONE, (0.0, 1e-17), solver="rk4", step_size=0.1).ys, ONE.expand(2, 1))


def test_infinite_times_are_refused():
    for method in ("rk4", "dopri5"):
        with pytest.raises(InputError, match="finite"):
            odeint(decay, ONE, torch.tensor([0.0, math.inf]), method=method)


@pytest.mark.parametrize("rtol", [[1e-6, 1e-8], (1e-6, 1e-8), torch.tensor([1e-6, 1e-8])])
def test_tolerances_in_every_form(rtol):
    t = torch.linspace(0, 1, 3, dtype=F64)
    two = (ONE, ONE)
    ys = odeint(lambda t, y: (-y[0], -y[1]), two, t, rtol=rtol)
    assert torch.allclose(ys[1][:, 0], torch.exp(-t), atol=1e-6)
    ys = odeint(lambda t, y: -y, torch.ones(2, dtype=F64), t, rtol=rtol)
    assert torch.allclose(ys[:, 0], torch.exp(-t), atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        odeint(lambda t, y: (-y[0], -y[1]), two, t, rtol=rtol, method="scipy_solver")


@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_adams"])
def test_an_empty_batch_is_solved(method):
    assert solve(decay, torch.ones(0, 3), (0.0, 1.0), solver=method).ys.shape == (2, 0, 3)
    if method == "dopri5":
        assert solve(decay, torch.ones(0, 3), (0.0, 1.0), per_sample=True).ys.shape == (2, 0, 3)


def test_returned_start_is_a_copy():
    y0 = ONE.clone()
    odeint(decay, y0, torch.tensor([0.0]))[0, 0] = 5.0
    assert float(y0) == 1.0


def test_times_as_a_list_of_tensors_keep_their_gradients():
    a, b = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.0, 1.0))
    (slope,) = torch.autograd.grad(solve(decay, ONE, [a, b], rtol=1e-9).ys[-1].sum(), b)
    assert float(slope) == pytest.approx(-math.exp(-1), rel=1e-4)


def test_adjoint_callbacks_get_the_tuple_of_the_augmented_state():
    class Field(Decay):
        seen: list = []  # noqa: RUF012

        def callback_step_adjoint(self, t0, state, dt):
            self.seen.append(tuple(x.shape for x in state))

    odeint_adjoint(Field(), ONE, torch.tensor([0.0, 1.0], dtype=F64)).sum().backward()
    assert Field.seen[0] == ((), (1,), (1,), ())  # a_t, y, a_y, a_rate
