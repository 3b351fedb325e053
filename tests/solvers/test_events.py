"""Events against closed forms: when and where, what they do, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from odenets import solve
from odenets.solvers import TABLEAUS, Event, InputError, MassMatrix, SolveError, Status
from odenets.solvers.gradients import GRADIENTS

F64 = torch.float64
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
ADAPTIVE = [name for name, tableau in TABLEAUS.items() if tableau.adaptive]
X0 = torch.tensor([1.0, 3.0, 10.0], dtype=F64)


def falling(t, s):
    """x'' = -8 for (x, v) [..., 2]."""
    return torch.stack([s[..., 1], torch.full_like(s[..., 1], -8.0)], -1)


def at_rest(x0):
    return torch.stack([x0, torch.zeros_like(x0)], -1)


def height(t, s):
    return s[..., 0]


def bounce(restitution):
    def reflect(t, s):
        return torch.stack([torch.zeros_like(s[..., 0]), -restitution * s[..., 1]], -1)

    return Event(height, direction=-1, on_event=reflect, name="bounce")


def bounce_times(x0, restitution, bounces):
    """sqrt(x0) / 2 (1 + 2 e + ... + 2 e^(n-1)) [n, *x0.shape]: x = x0 - 4 t^2, then flights of v / 4."""
    series = torch.stack([2 * sum(restitution**k for k in range(n)) - 1 for n in range(1, bounces + 1)])
    return series.reshape(-1, *([1] * x0.dim())) * x0.sqrt() / 2


# When, where and the gradients


def test_landing_time_and_its_gradient_in_one_batch():
    x0 = X0.clone().requires_grad_(True)
    solution = solve(
        falling, at_rest(x0), (0.0, 3.0), per_sample=True, save_at="end", events=[Event(height, terminal=True)]
    )
    landing = solution.events[0].ts[0]
    assert torch.allclose(landing, x0.sqrt() / 2, atol=1e-12)
    (gradient,) = torch.autograd.grad(landing.sum(), x0)
    assert torch.allclose(gradient, 1 / (4 * x0.detach().sqrt()), atol=1e-10)
    assert (solution.status == Status.EVENT).all()
    assert solution.success
    assert torch.equal(solution.ts[:, 0], landing)
    assert torch.allclose(solution.ys[0, :, 1], -8 * landing)


@pytest.mark.parametrize("start", X0.tolist())
@pytest.mark.parametrize("gradient", ["autograd", "adjoint"])
def test_landing_with_one_clock(start, gradient):
    x0 = torch.tensor(start, dtype=F64, requires_grad=True)
    event = Event(height, terminal=True)
    solution = solve(falling, at_rest(x0), (0.0, 1.0, 3.0), events=[event], gradient=gradient, params=())
    (time,) = solution.events[0].ts
    assert float(time.detach()) == pytest.approx(math.sqrt(start) / 2, abs=1e-10)
    assert float(torch.autograd.grad(time, x0)[0]) == pytest.approx(0.25 / math.sqrt(start), abs=1e-5)
    assert solution.status == Status.EVENT
    assert solution.ys[2].isnan().all()
    assert bool(solution.ys[1].isnan().all()) == (start < 4)


def ball(method, per_sample):
    """The solution over [0, 3], x0, the restitution, and the exact times and landing speeds of the bounces."""
    settings = TIGHT
    if method not in (*ADAPTIVE, "rodas5p"):
        settings = {"step_size": 0.05, **(TIGHT if "adams" in method else {})}
    elif method in TABLEAUS and TABLEAUS[method].order == 2:  # exact here, but its error estimate does not know
        settings = {"rtol": 1e-2, "atol": 1e-2}
    x0 = X0.clone().requires_grad_(True) if per_sample else torch.tensor(1.0, dtype=F64, requires_grad=True)
    restitution = torch.tensor(0.8, dtype=F64, requires_grad=True)
    ts = torch.linspace(0, 3.0, 9, dtype=F64)
    clock = {"per_sample": True} if per_sample else {}
    solution = solve(falling, at_rest(x0), ts, solver=method, events=[bounce(restitution)], **settings, **clock)
    exact = bounce_times(x0, restitution, 8)
    speed = 4 * x0.sqrt() * torch.stack([restitution**k for k in range(8)]).reshape(-1, *([1] * x0.dim()))
    return solution, x0, restitution, exact, speed


CLOCKS = [(method, False) for method in (*ADAPTIVE, "rodas5p", "rk4", "implicit_adams")] + [
    (method, True) for method in (*ADAPTIVE, "rodas5p")
]


@pytest.mark.parametrize(("method", "per_sample"), CLOCKS)
def test_bounces_are_the_geometric_series_with_gradients(method, per_sample):
    solution, x0, restitution, exact, speed = ball(method, per_sample)
    record = solution.events[0]
    assert torch.equal(record.count, (exact <= 3).sum(0))
    assert torch.equal(record.count, torch.tensor([5, 2, 1]) if per_sample else torch.tensor(5))
    exact, speed = exact[:5], speed[:5]
    known = ~record.ts.isnan()
    assert torch.equal(known, exact <= 3)
    assert torch.allclose(record.ts[known], exact[known], atol=1e-9)
    assert torch.allclose(record.ys[..., 1][known], -speed[known], atol=1e-8)
    weights = torch.randn(known.sum(), dtype=F64, generator=torch.Generator().manual_seed(0))
    for mine, wanted in ((record.ts, exact), (record.ys[..., 1], -speed)):
        mine = torch.autograd.grad((mine[known] * weights).sum(), (x0, restitution), retain_graph=True)
        wanted = torch.autograd.grad((wanted[known] * weights).sum(), (x0, restitution), retain_graph=True)
        for a, b in zip(mine, wanted):
            assert torch.allclose(a, b, rtol=1e-7)


@pytest.mark.parametrize(("method", "per_sample"), [("tsit5", False), ("tsit5", True), ("rk4", False), ("bosh3", True)])
def test_flight_after_the_bounces_and_its_gradients(method, per_sample):
    solution, x0, restitution, exact, speed = ball(method, per_sample)
    landed = (exact <= 3).sum(0, keepdim=True) - 1
    flown = 3.0 - exact.gather(0, landed)[0]
    final = speed.gather(0, landed)[0] * restitution * flown - 4 * flown**2
    assert torch.allclose(solution.ys[-1, ..., 0], final, atol=1e-8)
    mine = torch.autograd.grad(solution.ys[-1, ..., 0].sum(), (x0, restitution))
    wanted = torch.autograd.grad(final.sum(), (x0, restitution))
    for a, b in zip(mine, wanted):
        assert torch.allclose(a, b, rtol=1e-7)


@pytest.mark.parametrize("other", [name for name in GRADIENTS if name not in ("autograd", "reversible")])
def test_gradient_methods_go_from_event_to_event(other):
    found = {}
    for gradient in ("autograd", other):
        x0, restitution, floor = (torch.tensor(v, dtype=F64, requires_grad=True) for v in (1.0, 0.8, 0.1))
        events = [
            Event(lambda t, s: s[0] - floor, -1, on_event=lambda t, s: torch.stack([floor, -restitution * s[1]])),
            Event(lambda t, s: s[1], -1, name="top"),
        ]
        ts = torch.tensor([0.0, 0.3, 0.6, 1.5], dtype=F64, requires_grad=True)
        solution = solve(falling, at_rest(x0), ts, events=events, gradient=gradient, params=(), **TIGHT)
        assert [int(record.count) for record in solution.events] == [2, 1]
        loss = solution.ys[:, 0].square().sum() + sum(record.ts.sum() + record.ys.sum() for record in solution.events)
        found[gradient] = (loss, *torch.autograd.grad(loss, (x0, restitution, floor, ts)))
    for a, b in zip(*found.values()):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("other", ["checkpoint", "adjoint"])
@pytest.mark.parametrize("terminal", [False, 2])
def test_jumps_at_once_are_one_moment_for_every_gradient_method(other, terminal):
    """One event's jump moves the state off the other's surface: both see the state before, and jump in order."""
    found = {}
    for gradient in ("autograd", other):
        rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
        events = [
            Event(lambda t, y: y[0], on_event=lambda t, y: torch.stack([y[0] + 1, y[1]])),
            Event(lambda t, y: 3 * y[0], terminal=terminal, on_event=lambda t, y: torch.stack([y[0], y[1] + 2 * t])),
        ]

        def field(t, y, rate=rate):
            return torch.stack([-rate - 0.1 * t, 0.3 * y[0]])

        y0 = torch.tensor([1.0, 0.0], dtype=F64, requires_grad=True)
        solution = solve(
            field, y0, (0.0, 4.0), save_at="end", events=events, gradient=gradient, params=(rate,), **TIGHT
        )
        assert [int(record.count) for record in solution.events] == ([2, 2] if terminal else [3, 3])
        loss = solution.ys.sum() + sum(record.ts.sum() + record.ys.sum() for record in solution.events)
        found[gradient] = (loss, *torch.autograd.grad(loss, (y0, rate)))
    for a, b in zip(*found.values()):
        assert torch.allclose(a, b, rtol=1e-7)


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_an_event_at_an_output_time_does_not_move_with_it(gradient):
    """x = 1/2 - t is zero at 1/2, exactly, wherever the outputs are; from there x = 10 - (t - 1/2)."""
    ts = torch.tensor([0.0, 0.5, 1.0], dtype=F64, requires_grad=True)
    event = Event(lambda t, y: y[0], on_event=lambda t, y: y + 10)
    y0 = torch.tensor([0.5], dtype=F64)
    solution = solve(
        lambda t, y: -torch.ones_like(y),
        y0,
        ts,
        solver="rk4",
        step_size=0.25,
        events=[event],
        gradient=gradient,
        params=(),
    )
    assert solution.events[0].ts.tolist() == [0.5]
    for value, expected in (
        (solution.events[0].ts, [1, 0, 0]),
        (solution.ys[1], [1, -1, 0]),
        (solution.ys[2], [1, 0, -1]),
    ):
        (moved,) = torch.autograd.grad(value.sum(), ts, retain_graph=True)
        assert torch.allclose(moved, torch.tensor(expected, dtype=F64), atol=1e-12)


@pytest.mark.parametrize("settings", [{"per_sample": True}, {"dense": True}, {"save_at": "steps"}], ids=str)
def test_automatic_gradients_take_events_wherever_autograd_does(settings):
    found = []
    for gradient in ("auto", "autograd"):
        events = [Event(lambda t, s: s[..., 0].reshape(t.shape), terminal=True)]
        x0 = torch.tensor([1.0], dtype=F64, requires_grad=True)
        solution = solve(falling, at_rest(x0), (0.0, 3.0), events=events, gradient=gradient, params=(), **settings)
        assert (solution.dense is None) == ("dense" not in settings)
        found.append((solution.ts, solution.ys, solution.events[0].ts))
    for a, b in zip(*found):
        assert torch.allclose(a, b, equal_nan=True)


def test_gradients_of_a_fixed_step_solve_pass_gradcheck():
    """Exact for the discretisation: also where neither the steps nor their polynomials are."""

    def run(y0, floor, rate, t0):
        def field(t, s):
            return torch.stack([s[1] * torch.cos(t), -rate * torch.sin(s[0]) - t])

        events = [Event(lambda t, s: s[0] - floor * torch.cos(t), on_event=lambda t, s: s * torch.stack([rate, -rate]))]
        ts = torch.stack([t0, t0 + 0.9, t0 + 2])
        solution = solve(field, y0, ts, solver="rk4", step_size=0.21, events=events)
        assert len(solution.events[0].ts) == 4
        return solution.ys, solution.events[0].ts, solution.events[0].ys

    values = ([1.0, -1.0], 0.3, 0.9, 0.1)
    assert torch.autograd.gradcheck(run, [torch.tensor(v, dtype=F64, requires_grad=True) for v in values], atol=1e-6)


def test_second_derivatives_are_refused():
    x0 = torch.tensor(1.0, dtype=F64, requires_grad=True)
    time = solve(falling, at_rest(x0), (0.0, 3.0), events=[Event(height, terminal=True)]).events[0].ts
    (first,) = torch.autograd.grad(time.sum(), x0, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(first, x0)


# Against other sources


@pytest.mark.parametrize("method", ["dopri5", "tsit5"])
def test_periods_of_the_pendulum_are_elliptic_integrals(method):
    from scipy.special import ellipk

    angles = torch.tensor([0.2, 1.0, 2.0], dtype=F64)
    event = Event(lambda t, s: s[:, 1], direction=-1, terminal=2)  # at rest at the right: after one period, after two
    pendulum = lambda t, s: torch.stack([s[:, 1], -torch.sin(s[:, 0])], -1)  # noqa: E731
    solution = solve(
        pendulum, at_rest(angles), (0.0, 20.0), solver=method, per_sample=True, events=[event], rtol=1e-8, atol=1e-8
    )
    period = torch.from_numpy(4 * ellipk(np.sin(angles.numpy() / 2) ** 2))
    assert torch.allclose(solution.events[0].ts, torch.stack([period, 2 * period]), atol=1e-6)
    assert torch.allclose(solution.events[0].ys[..., 0], angles.expand(2, 3), atol=1e-6)


def test_maxima_of_lotka_volterra_are_scipys():
    from scipy.integrate import solve_ivp

    def field(t, s, a):
        x, y = s.unbind(-1)
        return torch.stack([x * (a - y), y * (x - 1)], -1)

    def numpy_field(t, s):
        return [s[0] * (1.5 - s[1]), s[1] * (s[0] - 1)]

    def prey(t, s):
        return 1.5 - s[1]

    def predator(t, s):
        return s[0] - 1

    for function in (prey, predator):
        setattr(function, "direction", -1.0)  # noqa: B010  scipy looks for it there
    theirs = solve_ivp(
        numpy_field, (0, 10), [1.0, 0.5], events=[prey, predator], method="DOP853", rtol=1e-12, atol=1e-12
    )
    a, y0 = torch.tensor(1.5, dtype=F64), torch.tensor([1.0, 0.5], dtype=F64)
    events = [Event(lambda t, s, a: a - s[..., 1], -1, name="prey"), Event(lambda t, s, a: s[..., 0] - 1, -1)]
    for y0, clock in ((y0, {}), (y0.expand(2, 2), {"per_sample": True})):
        ours = solve(field, y0, (0.0, 10.0), args=(a,), events=events, **TIGHT, **clock).events
        for record, times, states in zip(ours, theirs.t_events, theirs.y_events):
            assert (record.count == len(times)).all()
            mine, states_there = (record.ts[:, -1], record.ys[:, -1]) if clock else (record.ts, record.ys)
            assert np.allclose(mine, times, atol=1e-6)
            assert np.allclose(states_there, states, atol=1e-6)


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("walk", [1, -1])
def test_directions_along_the_walk(direction, walk):
    """y = sin t: crossings of 1/2, also backwards in time."""
    event = Event(lambda t, y, level: y - level, direction=direction)
    y0, ts = torch.zeros((), dtype=F64), (0.0, 12.0 * walk)
    level = torch.tensor(0.5, dtype=F64)
    times = solve(lambda t, y, level: torch.cos(t), y0, ts, args=(level,), events=[event], **TIGHT).events[0].ts
    up = [math.asin(0.5) + 2 * math.pi * n for n in range(-3, 3)]
    down = [math.pi - math.asin(0.5) + 2 * math.pi * n for n in range(-3, 3)]
    rising = direction * walk == 1
    exact = sorted((t for t in (up if rising else down) if 0 < t * walk < 12), key=abs)
    assert np.allclose(times, exact, atol=1e-8)


def test_each_sample_has_its_events_as_if_alone():
    starts = torch.tensor([[1.0, 0.0], [2.0, 3.0], [0.1, -1.0]], dtype=F64)
    events = [bounce(0.8), Event(lambda t, s: s[..., 1], -1)]
    together = solve(falling, starts, (0.0, 1.0, 1.5), events=events, per_sample=True, dense=True)
    for i, start in enumerate(starts):
        alone = solve(falling, start, (0.0, 1.0, 1.5), events=events, dense=True)
        assert torch.allclose(together.ys[:, i], alone.ys, atol=1e-12)
        for mine, single in zip(together.events, alone.events):
            assert int(mine.count[i]) == int(single.count)
            assert torch.allclose(mine.ts[: len(single.ts), i], single.ts, atol=1e-12)
            assert torch.allclose(mine.ys[: len(single.ts), i], single.ys, atol=1e-12)
            assert mine.ts[len(single.ts) :, i].isnan().all()
        query = torch.linspace(0, 1.5, 30, dtype=F64)  # none at a bounce: there both sides are right
        assert torch.allclose(together.dense(query)[:, i], alone.dense(query), atol=1e-12)


# Corners


CLOCK = pytest.mark.parametrize("clock", [{}, {"per_sample": True}], ids=["one", "own"])


def batched(state, clock):
    state = torch.tensor(state, dtype=F64)
    return state.expand(2, *state.shape) if clock else state


@CLOCK
def test_an_event_that_never_happens(clock):
    event = Event(lambda t, s: s[..., 0] + 100, terminal=True)
    solution = solve(falling, batched([1.0, 0.0], clock), (0.0, 1.0), events=[event], **clock)
    assert (torch.as_tensor(solution.status) == Status.SUCCESS).all()
    assert (solution.events[0].count == 0).all()
    assert len(solution.events[0].ts) == 0
    assert not solution.ys.isnan().any()


@CLOCK
@pytest.mark.parametrize("direction", [0, -1])
def test_an_event_that_is_true_from_the_start_is_no_crossing(clock, direction):
    """Below the floor and falling: the sign of the height does not change."""
    event = Event(height, direction, terminal=True)
    solution = solve(falling, batched([-1.0, 0.0], clock), (0.0, 1.0), events=[event], **clock)
    assert (torch.as_tensor(solution.status) == Status.SUCCESS).all()
    assert (solution.events[0].count == 0).all() and not solution.ys.isnan().any()


@CLOCK
def test_a_start_on_the_surface_is_no_crossing_but_the_return_is_even_within_one_step(clock):
    event = Event(height, terminal=True)
    start = batched([0.0, 4.0], clock)
    solution = solve(falling, start, (0.0, 3.0), events=[event], first_step=2.0, save_at="end", **clock)
    assert (solution.stats.accepted == 1) if not clock else (solution.stats.accepted == 1).all()
    assert torch.allclose(solution.ts, torch.ones_like(solution.ts), atol=1e-12)


@CLOCK
@pytest.mark.parametrize(
    ("function", "time"), [(lambda t, s: s[..., 0] * math.nan, 0), (lambda t, s: s[..., 0].sqrt(), 1)]
)
def test_an_event_that_is_nan_ends_the_solve_with_its_name(clock, function, time):
    with pytest.raises(SolveError, match="event 'odd' is NaN") as caught:
        solve(falling, batched([1.0, 0.0], clock), (0.0, 0.1, 2.0), events=[Event(function, +1, name="odd")], **clock)
    solution = caught.value.solution
    assert (torch.as_tensor(solution.status) == Status.NON_FINITE).all()
    assert solution.ys[-1].isnan().all()
    assert solution.ys[1].isnan().any() == (time == 0)


@CLOCK
def test_an_output_at_the_time_of_an_event_is_the_state_before_it(clock):
    start = batched([1.0, 0.0], clock)
    ends = solve(falling, start, (0.0, 0.5, 0.75), events=[Event(height, terminal=True)], **clock)
    assert torch.allclose(ends.ys[1], batched([0.0, -4.0], clock), atol=1e-12)
    assert ends.ys[2].isnan().all()
    jumps = solve(falling, start, (0.0, 0.5, 0.75), events=[bounce(0.5)], **clock)
    assert torch.allclose(jumps.ys[1], batched([0.0, -4.0], clock), atol=1e-12)
    assert torch.allclose(jumps.ys[2], batched([0.25, 0.0], clock), atol=1e-12)


@CLOCK
def test_jumps_that_accumulate_or_pass_the_limit_have_a_status(clock):
    start = batched([1.0, 0.0], clock)
    for event, end in ((bounce(0.3), 0.5 + 0.3 / 0.7), (bounce(0.0), 0.5), (Event(height, limit=0), 0.5)):
        solution = solve(falling, start, (0.0, 0.4, 3.0), events=[event], throw=False, save_at="steps", **clock)
        assert (torch.as_tensor(solution.status) == Status.TOO_MANY_EVENTS).all()
        assert not solution.success
        assert "events" in solution.message
        assert torch.allclose(solution.events[0].ts[-1], torch.tensor(end, dtype=F64), atol=1e-9)


@CLOCK
def test_two_walls_hit_at_once_both_reflect(clock):
    def reflect(i):
        signs = [[-1.0, 1.0], [1.0, -1.0]][i]
        function = lambda t, s: s[..., i] - 1  # noqa: E731
        return Event(function, +1, on_event=lambda t, s: torch.cat([s[..., :2], s[..., 2:] * torch.tensor(signs)], -1))

    def drift(t, s):
        return torch.cat([s[..., 2:], torch.zeros_like(s[..., 2:])], -1)

    solution = solve(drift, batched([0.0, 0.5, 2.0, 1.0], clock), (0.0, 1.0), events=[reflect(0), reflect(1)], **clock)
    assert torch.allclose(solution.ys[-1], batched([0.0, 0.5, -2.0, -1.0], clock), atol=1e-12)


def test_a_reset_far_from_the_surface_and_a_count():
    """An integrate-and-fire neuron: y' = 2 - y, reset from 1 to 0, spikes at multiples of ln 2."""
    event = Event(lambda t, y: y[:, 0] - 1, on_event=lambda t, y: torch.zeros_like(y), terminal=4, name="spike")
    solution = solve(
        lambda t, y: 2 - y, torch.zeros(2, 1, dtype=F64), (0.0, 9.0), per_sample=True, events=[event], **TIGHT
    )
    assert torch.allclose(solution.events[0].ts[:, 0], math.log(2) * torch.arange(1, 5, dtype=F64), atol=1e-8)
    assert (solution.status == Status.EVENT).all()


def test_two_crossings_within_a_step_are_missed_unless_steps_are_bounded():
    field = lambda t, y: torch.ones_like(y)  # noqa: E731
    event = Event(lambda t, y: (y - 1.0) * (y - 1.3))
    y0 = torch.zeros((), dtype=F64)
    assert int(solve(field, y0, (0.0, 5.0), events=[event], first_step=4.0).events[0].count) == 0
    assert torch.allclose(
        solve(field, y0, (0.0, 5.0), events=[event], max_step=0.25).events[0].ts, torch.tensor([1.0, 1.3], dtype=F64)
    )


def test_trees_keep_their_form_in_events():
    state = {"x": torch.ones(2, 1, dtype=F64), "v": torch.zeros(2, dtype=F64)}
    event = Event(lambda t, s: s["x"][:, 0], -1, on_event=lambda t, s: {"v": -s["v"], "x": torch.zeros_like(s["x"])})
    field = lambda t, s: {"x": s["v"][:, None], "v": torch.full_like(s["v"], -8.0)}  # noqa: E731
    solution = solve(field, state, (0.0, 1.0), per_sample=True, events=[event])
    assert solution.events[0].ys["x"].shape == (1, 2, 1)
    assert torch.allclose(solution.ys["x"][-1], torch.ones(2, 1, dtype=F64), atol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"events": [Event(lambda t, s: s)]}, "one clock"),
        ({"events": [Event(lambda t, s: s[0] > 0)]}, "got torch.bool"),
        ({"events": [Event(height, on_event=lambda t, s: s[:1])]}, "state like y0"),
        ({"events": [Event(height)], "solver": "torchdiffeq"}, "does not show its steps"),
        ({"events": [Event(height)], "field": MassMatrix(falling, torch.eye(2))}, "mass matrix"),
    ],
)
def test_wrong_events_are_refused(arguments, match):
    with pytest.raises(InputError, match=match):
        solve(**{"field": falling, "y0": torch.tensor([1.0, 0.0], dtype=F64), "ts": (0.0, 3.0), **arguments})
    with pytest.raises(InputError, match="direction"):
        Event(height, direction=2)
    with pytest.raises(InputError, match="terminal"):
        Event(height, terminal=-1)


def test_rejected_steps_after_a_jump_do_not_forget_the_side():
    """Balls that land with a rounding error of either sign; then a fast oscillation starts and steps are rejected."""
    x0 = torch.linspace(1, 2, 16, dtype=F64)
    start = torch.stack([x0, torch.zeros_like(x0), torch.zeros_like(x0), torch.zeros_like(x0)], -1)

    def field(t, s):
        x, v, mode, extra = s.unbind(-1)
        return torch.stack([v, torch.full_like(x, -8.0), torch.zeros_like(x), mode * torch.cos(60 * t)], -1)

    def reflect(t, s):
        return torch.stack([s[:, 0], -s[:, 1], torch.ones_like(t), s[:, 3]], -1)

    solution = solve(field, start, (0.0, 1.0), per_sample=True, events=[Event(height, on_event=reflect)])
    assert (solution.stats.rejected > 0).all()
    assert (solution.events[0].count == 1).all()
