"""The drop-in interface: torchdiffeq's conventions, and where ours is meant to be better."""

from __future__ import annotations

import inspect
import math
import warnings

import pytest
import torch
import torchdiffeq
from torch import nn

import odenets
from odenets import odeint, odeint_adjoint, odeint_dense, odeint_event
from odenets.solvers import InputError, SolveError

from .fields import COUPLED_START, coupled, coupled_exact

F64 = torch.float64
TS = torch.linspace(0.0, 2.0, 6, dtype=F64)
ONE = torch.ones(1, dtype=F64)


@pytest.mark.parametrize("name", ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event"])
def test_signatures_accept_every_argument_of_torchdiffeq(name):
    theirs = inspect.signature(getattr(torchdiffeq, name)).parameters
    ours = inspect.signature(getattr(odenets, name)).parameters
    assert [p for p in theirs if p not in ours] == []
    for parameter, value in theirs.items():
        if value.default is not inspect.Parameter.empty and callable(value.default) is False:
            assert ours[parameter].default == value.default, parameter


SAME_STEPS = ["euler", "midpoint", "rk4"]


@pytest.mark.parametrize("method", SAME_STEPS)
@pytest.mark.parametrize("interp", ["linear", "cubic"])
@pytest.mark.parametrize("t", [TS, TS.flip(0), TS.float()])
def test_fixed_methods_give_torchdiffeqs_numbers(method, interp, t):
    for options in ({"step_size": 0.13, "interp": interp}, {"interp": interp}, {"step_size": 0.25, "perturb": True}):
        theirs = torchdiffeq.odeint(coupled, COUPLED_START, t, method=method, options=options)
        assert torch.allclose(odeint(coupled, COUPLED_START, t, method=method, options=options), theirs, atol=3e-7)


@pytest.mark.parametrize("method", ["bosh3"])
@pytest.mark.parametrize("norm", [None, lambda x: x.abs().max()])
def test_adaptive_methods_take_torchdiffeqs_steps(method, norm):
    """Same tableau, same controller, same norm: the same accepted times, but for the last step, which ours cuts.

    (dopri5 is another matter: torchdiffeq has Shampine's weights for the error, we have Dormand and Prince's.)
    """

    class Recording(nn.Module):
        def __init__(self):
            super().__init__()
            self.times = []

        def forward(self, t, y):
            return coupled(t, y)

        def callback_accept_step(self, t0, y0, dt):
            self.times.append(float(t0))

    options = {} if norm is None else {"norm": norm}
    ours, theirs = Recording(), Recording()
    odeint(ours, COUPLED_START, TS, method=method, rtol=1e-6, atol=1e-8, options=options)
    torchdiffeq.odeint(theirs, COUPLED_START, TS, method=method, rtol=1e-6, atol=1e-8, options=options)
    assert ours.times[:-1] == pytest.approx(theirs.times[: len(ours.times) - 1], rel=1e-9)
    assert len(ours.times) == len(theirs.times)


def test_rk4_is_the_three_eighths_rule_and_classic_has_its_own_name():
    step = torch.tensor([0.0, 0.5], dtype=F64)
    three_eighths = odeint(coupled, COUPLED_START, step, method="rk4")
    classic = odeint(coupled, COUPLED_START, step, method="rk4_classic")
    assert torch.allclose(three_eighths, torchdiffeq.odeint(coupled, COUPLED_START, step, method="rk4"), atol=1e-14)
    assert not torch.allclose(three_eighths, classic, atol=1e-9)


def test_one_time_returns_the_start():
    assert torch.equal(odeint(coupled, COUPLED_START, TS[:1]), COUPLED_START[None])


def test_tuple_states_and_their_norm():
    seen = []

    def norm(state):
        seen.append([tuple(x.shape) for x in state])
        return max(x.abs().max() for x in state)

    y0 = (torch.ones(2, dtype=F64), torch.zeros((), dtype=F64))
    a, b = odeint(lambda t, y: (-y[0], torch.cos(t)), y0, TS, options={"norm": norm})
    assert a.shape == (6, 2)
    assert b.shape == (6,)
    assert torch.allclose(b, torch.sin(TS), atol=1e-6)
    assert seen[0] == [(2,), ()]


def test_grid_constructor_and_step_size_grid():
    steps = []

    class Field(nn.Module):
        def forward(self, t, y):
            return -y

        def callback_step(self, t0, y0, dt):
            steps.append((float(t0), float(dt)))

    odeint(Field(), ONE, torch.tensor([0.0, 1.0], dtype=F64), method="euler", options={"step_size": 0.3})
    # ceil((1 - 0) / 0.3 + 1) = 5 points, the last clipped
    assert [t for t, _ in steps] == pytest.approx([0.0, 0.3, 0.6, 0.9])
    assert steps[-1][1] == pytest.approx(0.1)
    grid = odeint(lambda t, y: y, ONE, torch.tensor([0.0, 1.0]), method="euler",
                  options={"grid_constructor": lambda f, y0, t: torch.linspace(0, 1, 11)})  # fmt: skip
    assert float(grid[-1]) == pytest.approx(1.1**10, rel=1e-6)
    with pytest.raises(ValueError, match="mutually exclusive"):
        odeint(
            coupled, COUPLED_START, TS, method="euler", options={"step_size": 0.1, "grid_constructor": lambda *a: TS}
        )
    with pytest.raises(ValueError, match="grid from 0"):
        odeint(coupled, COUPLED_START, TS, method="euler", options={"grid_constructor": lambda f, y, t: t[1:]})


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"t": torch.tensor([0.0, 0.0, 1.0])}, AssertionError),
        ({"t": torch.tensor([0.0, 1.0, 0.5])}, AssertionError),
        ({"t": torch.tensor([0, 1])}, TypeError),
        ({"t": [0.0, 1.0]}, AssertionError),
        ({"t": torch.zeros(2, 2)}, AssertionError),
        ({"method": "dopri"}, ValueError),
        ({"rtol": torch.tensor(1e-3, requires_grad=True)}, AssertionError),
        ({"options": {"max_num_steps": 3}}, AssertionError),
        ({"options": {"step_t": torch.tensor([0.5]), "jump_t": torch.tensor([0.5])}}, ValueError),
    ],
)
def test_errors_are_of_torchdiffeqs_types_and_ours(arguments, error):
    call = {"func": coupled, "y0": COUPLED_START, "t": TS, **arguments}
    with pytest.raises(error):
        torchdiffeq.odeint(**call)
    with pytest.raises(error) as ours:
        odeint(**call)
    assert isinstance(ours.value, (InputError, SolveError))


def test_nan_field_is_not_called_an_underflow():
    field = lambda t, y: y / (t - 1).clamp(max=0) * 0  # noqa: E731  0 / 0 from t = 1 on
    with pytest.raises(AssertionError, match="underflow"):
        torchdiffeq.odeint(field, ONE, TS)
    with pytest.raises(SolveError, match="vector field is NaN or infinite"):
        odeint(field, ONE, TS)


def test_unknown_options_warn_and_name_the_known_ones():
    with pytest.warns(UserWarning, match=r"Unexpected arguments.*frist_step.*first_step"):
        odeint(coupled, COUPLED_START, TS, method="dopri5", options={"frist_step": 0.1})
    with pytest.warns(UserWarning, match="does not support callbacks"):
        field = nn.Identity()
        field.forward = lambda t, y: -y
        field.callback_accept_step = lambda t0, y0, dt: None
        odeint(field, ONE, TS, method="euler")


def test_callbacks_see_true_times_and_positive_steps_in_both_directions():
    for t in (TS, TS.flip(0)):
        calls = {"step": [], "accept": [], "reject": []}

        class Field(nn.Module):
            def forward(self, t, y):
                return torch.cos(20 * t) * y

        field = Field()
        field.callback_step = lambda t0, y0, dt: calls["step"].append((float(t0), float(dt)))
        field.callback_accept_step = lambda t0, y0, dt: calls["accept"].append(float(t0))
        field.callback_reject_step = lambda t0, y0, dt: calls["reject"].append(float(t0))
        odeint(field, ONE, t, options={"first_step": 1.0})
        assert len(calls["accept"]) + len(calls["reject"]) == len(calls["step"])
        assert calls["reject"]
        assert calls["step"][0][0] == float(t[0])
        assert all(dt > 0 for _, dt in calls["step"])


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_dense_output_for_any_shape_of_times(shape):
    for method in ("dopri5", "tsit5", "rk4"):
        options = {"step_size": 0.01} if method == "rk4" else {}
        dense = odeint_dense(coupled, COUPLED_START, TS[0], TS[-1], method=method, options=options)
        t = torch.rand(shape, dtype=F64, generator=torch.Generator().manual_seed(0)) * 2
        assert torch.allclose(dense(t), coupled_exact(t), atol=1e-5)
    theirs = torchdiffeq.odeint_dense(coupled, COUPLED_START, TS[0], TS[-1])
    assert torch.allclose(odeint_dense(coupled, COUPLED_START, TS[0], TS[-1])(TS[2]), theirs(TS[2]), atol=1e-7)


class Falling(nn.Module):
    """A ball thrown from height x with speed v: lands at (v + sqrt(v^2 + 2 g x)) / g."""

    def __init__(self):
        super().__init__()
        self.g = nn.Parameter(torch.tensor(9.81, dtype=F64))

    def forward(self, t, state):
        x, v = state
        return v, -self.g * torch.ones_like(x)


def landing_time(x, v, g):
    return (v + torch.sqrt(v**2 + 2 * g * x)) / g


@pytest.mark.parametrize("interface", [odeint, odeint_adjoint])
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "rk4"])
def test_event_time_and_its_gradients_are_the_closed_form(interface, method):
    field = Falling()
    x, v = (torch.tensor([value], dtype=F64, requires_grad=True) for value in (2.0, 3.0))
    t0 = torch.tensor(0.5, dtype=F64, requires_grad=True)
    floor = torch.tensor(0.1, dtype=F64, requires_grad=True)
    options = {"step_size": 0.01, "interp": "cubic"} if method == "rk4" else {}
    t, (xs, vs) = odeint_event(
        field, (x, v), t0, event_fn=lambda t, s: s[0] - floor, odeint_interface=interface, method=method,
        options=options, rtol=1e-10, atol=1e-12,
    )  # fmt: skip
    exact = t0 + landing_time(x - floor, v, field.g)[0]
    assert t.item() == pytest.approx(exact.item(), abs=1e-8)
    assert xs.shape == (2, 1)
    for value, reference in ((t, exact), (vs[-1, 0], (v - field.g * (exact - t0))[0])):
        mine = torch.autograd.grad(value, (x, v, t0, floor, field.g), retain_graph=True, allow_unused=True)
        wanted = torch.autograd.grad(reference, (x, v, t0, floor, field.g), retain_graph=True, allow_unused=True)
        for a, b in zip(mine, wanted):
            assert float(0 if a is None else a) == pytest.approx(float(0 if b is None else b), abs=1e-5)


def test_event_backward_in_time_and_the_first_of_several():
    y0 = torch.tensor([1.0], dtype=F64)
    t, y = odeint_event(lambda t, y: y, y0, torch.tensor(0.0, dtype=F64), reverse_time=True,
                        event_fn=lambda t, y: y[0] - 0.25)  # fmt: skip
    assert float(t) == pytest.approx(math.log(0.25), abs=1e-7)
    assert float(y[-1]) == pytest.approx(0.25, abs=1e-6)
    t, _ = odeint_event(lambda t, y: y, y0, torch.tensor(0.0, dtype=F64),
                        event_fn=lambda t, y: torch.stack([y[0] - 5.0, 2.0 - y[0]]))  # fmt: skip
    assert float(t) == pytest.approx(math.log(2.0), abs=1e-7)


def test_event_mode_wants_two_times():
    with pytest.raises(ValueError, match=r"len\(t\) == 2"):
        odeint(coupled, COUPLED_START, TS, event_fn=lambda t, y: y[0] - 1)


def test_adjoint_wants_a_module_or_parameters():
    with pytest.raises(ValueError, match="adjoint_params"):
        odeint_adjoint(lambda t, y: -y, ONE, TS)
    with pytest.raises(ValueError, match="cannot infer `adjoint_options`"):
        odeint_adjoint(lambda t, y: -y, ONE, TS, adjoint_params=(), method="dopri5", adjoint_method="rk4",
                       options={"first_step": 0.1})  # fmt: skip


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 2)).double()

    def forward(self, t, y):
        return self.layers(y) * torch.sin(3 * t)


@pytest.mark.parametrize("seminorm", [False, True])
def test_adjoint_gradients_are_torchdiffeqs(seminorm):
    options = {"adjoint_options": {"norm": "seminorm"}} if seminorm else {}
    results = []
    for library in (torchdiffeq, odenets):
        net = Net()
        y0 = torch.tensor([1.0, -0.4], dtype=F64, requires_grad=True)
        t = TS.clone().requires_grad_(True)
        library.odeint_adjoint(net, y0, t, rtol=1e-9, atol=1e-11, **options).square().sum().backward()
        results.append((y0.grad, t.grad, *(p.grad for p in net.parameters())))
    for theirs, ours in zip(*results):
        # the seminorm does not control the error of the parameters' integral
        tolerance = 1e-4 if seminorm else 1e-6
        assert torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance * 1e-2)


def test_seminorm_takes_no_more_evaluations():
    counts = {}
    for norm in (None, "seminorm"):
        net = Net()
        y0 = torch.tensor([1.0, -0.4], dtype=F64, requires_grad=True)
        calls = []
        net.register_forward_hook(lambda *_: calls.append(1))
        kwargs = {} if norm is None else {"adjoint_options": {"norm": norm}}
        ys = odeint_adjoint(net, y0, TS, rtol=1e-6, atol=1e-8, **kwargs)
        calls.clear()
        ys.square().sum().backward()
        counts[norm] = len(calls)
    assert counts["seminorm"] <= counts[None]


def test_adjoint_warns_of_parameters_left_out_of_the_users_norm():
    frozen = torch.ones(2, dtype=F64)
    with pytest.warns(UserWarning, match="excluded from the adjoint pass"):
        odeint_adjoint(lambda t, y: -y, ONE, TS, adjoint_params=(frozen,), adjoint_options={"norm": lambda parts: 0.0})


def test_dtype_option_sets_the_precision_of_time():
    seen = []

    class Field(nn.Module):
        def forward(self, t, y):
            return -y

        def callback_step(self, t0, y0, dt):
            seen.append(t0.dtype)

    t = TS.float()
    for dtype, expected in ((torch.float32, torch.float32), (torch.float64, torch.float64)):
        seen.clear()
        ys = odeint(Field(), torch.ones(1), t, rtol=1e-4, atol=1e-5, options={"dtype": dtype})
        assert set(seen) == {expected}
        assert torch.allclose(ys[:, 0], torch.exp(-t), atol=1e-3)


def test_no_warnings_in_ordinary_use():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        t = TS.clone().requires_grad_(True)
        y0 = COUPLED_START.clone().requires_grad_(True)
        odeint(coupled, y0, t).sum().backward()
        odeint_adjoint(coupled, y0, t, adjoint_params=()).sum().backward()
        odeint(coupled, y0, t, method="rk4", options={"step_size": 0.1}).sum().backward()
