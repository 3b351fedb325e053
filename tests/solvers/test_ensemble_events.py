"""Events of ensembles: times in closed form, and the records of the per-sample loop."""

from __future__ import annotations

import pytest
import torch

from odenets.solvers import Event, InputError, Status, solve

F64 = torch.float64
pytestmark = pytest.mark.usefixtures("compiled")

FLOOR = Event(lambda t, s: s[:, 0], terminal=True, name="floor")
HALF = Event(lambda t, s: s[:, 0] - 0.5, name="half")
CLOCK = Event(lambda t, s: torch.sin(20 * t), direction=1, name="clock")
HEIGHTS = torch.tensor([1.0, 3.0, 10.0, 0.25], dtype=F64)


def falling(t, s):
    """x'' = -8: from height x0 the floor is reached at sqrt(x0 / 4)."""
    return torch.stack([s[:, 1], torch.full_like(s[:, 1], -8.0)], -1)


def fall(how, **settings):
    start = torch.stack([HEIGHTS, torch.zeros(4, dtype=F64)], -1)
    ts = settings.pop("ts", torch.linspace(0, 3, 11, dtype=F64))
    events = settings.pop("events", [FLOOR, HALF, CLOCK])
    return solve(falling, start, ts, events=events, solver="tsit5", max_step=0.05, **{how: True}, **settings)


def test_times_in_closed_form():
    solution = fall("ensemble")
    assert (solution.status == Status.EVENT).all()
    floor, half, clock = solution.events
    assert torch.allclose(floor.ts[0], (HEIGHTS / 4).sqrt(), rtol=0, atol=1e-14)
    assert half.count.tolist() == [1, 1, 1, 0]
    assert torch.allclose(half.ts[0, :3], ((HEIGHTS[:3] - 0.5) / 4).sqrt(), rtol=0, atol=1e-14)
    assert clock.count.tolist() == [1, 2, 5, 0]
    assert torch.allclose(clock.ts[:, 2], torch.arange(1, 6, dtype=F64) * torch.pi / 10, rtol=0, atol=1e-14)
    late = torch.linspace(0, 3, 11, dtype=F64)[:, None] > floor.ts[0]
    assert torch.equal(solution.ys[..., 0].isnan(), late)
    inside = solution.ys[..., 0][~late]
    exact = HEIGHTS - 4 * torch.linspace(0, 3, 11, dtype=F64)[:, None] ** 2
    assert torch.allclose(inside, exact[~late], atol=1e-12)


def test_records_of_the_per_sample_loop():
    many = Event(lambda t, s: torch.sin(200 * t) * s[:, 1], name="many")
    for settings in ({}, {"save_at": "end"}, {"events": [FLOOR, HALF, many]}):
        ours, loop = fall("ensemble", **settings), fall("per_sample", **settings)
        assert torch.allclose(ours.ts, loop.ts, atol=1e-13)
        assert torch.allclose(ours.ys, loop.ys, atol=1e-12, equal_nan=True)
        for mine, theirs in zip(ours.events, loop.events):
            assert mine.name == theirs.name
            assert torch.equal(mine.count, theirs.count)
            assert torch.allclose(mine.ts, theirs.ts, atol=1e-12, equal_nan=True)
            assert torch.allclose(mine.ys, theirs.ys, atol=1e-11, equal_nan=True)
    assert int(ours.events[2].count.max()) > 16  # more than there was room for at first


def test_numbered_ends_limits_and_directions():
    """The rules are numbers: the same program for all of them."""
    third = fall("ensemble", events=[FLOOR, HALF, Event(CLOCK.function, direction=1, terminal=2, name="clock")])
    assert third.status.tolist() == [Status.EVENT] * 4
    assert torch.allclose(third.events[2].ts[1, 2], torch.tensor(torch.pi / 5, dtype=F64), atol=1e-13)
    assert third.events[0].count.tolist() == [1, 0, 0, 1]
    down = fall("ensemble", events=[FLOOR, HALF, Event(CLOCK.function, direction=-1, name="clock")])
    assert torch.allclose(down.events[2].ts[0, 2], torch.tensor(torch.pi / 20, dtype=F64), atol=1e-13)
    full = fall("ensemble", events=[FLOOR, HALF, Event(CLOCK.function, limit=3, name="clock")], throw=False)
    assert full.status.tolist() == [Status.EVENT, Status.TOO_MANY_EVENTS, Status.TOO_MANY_EVENTS, Status.EVENT]


def test_starting_on_the_surface_is_no_crossing():
    """Thrown up from the floor: the way that the solution leaves it decides what the next crossing is."""
    start = torch.tensor([[0.0, 4.0], [0.0, 8.0]], dtype=F64)
    events = [FLOOR, HALF, CLOCK]
    solution = solve(falling, start, (0.0, 3.0), events=events, solver="tsit5", max_step=0.05, ensemble=True)
    assert torch.allclose(solution.events[0].ts[0], torch.tensor([1.0, 2.0], dtype=F64), atol=1e-13)


def test_jumps_are_left_to_the_loop():
    with pytest.raises(InputError, match="on_event use per_sample=True"):
        fall("ensemble", events=[Event(FLOOR.function, on_event=lambda t, s: -s)])
