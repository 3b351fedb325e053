"""Events: zero crossings of functions of the solution, which are recorded, end the solve, or change the state.

After every accepted step each event's value is compared with the one before; where a sign changed, the time is located
on the step's dense output (`roots`). The same code serves one clock (B = []) and a clock per sample (B = [batch]).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..field import FlatField
from ..step import over_state
from .roots import find_root, implicit_time, rate_along

_TINY = 1e-300


@dataclass(frozen=True)
class Event:
    """Something that happens where a function of the solution crosses zero.

    Between two accepted steps at most one crossing is seen: an event that crosses twice within a step is missed. Keep
    steps shorter than the time between crossings with the solver's `max_step`.

    Args:
        function: g(t, y, *args) -> a number, or [batch] where each sample has its own clock; y in the user's form.
        direction: +1 for crossings from negative to positive along the walk (also backwards in time), -1 for the
            opposite, 0 for both.
        terminal: whether the solve ends there; n > 1: at the n-th crossing.
        on_event: (t, y, *args) -> the state to go on with, like y; not called at a crossing that ends the solve.
            Give a state on the surface exactly (a ball's height 0, not the rounding error that it landed with). With
            a clock per sample it is given the whole batch, and its value is used where the event happened.
        name: for messages and for finding the event's record.
        limit: crossings at most (per sample); more end the solve with Status.TOO_MANY_EVENTS.

    Raises:
        InputError: for a direction other than -1, 0, 1 or a negative terminal.
    """

    function: Callable[..., Tensor]
    direction: int = 0
    terminal: bool | int = False
    on_event: Callable[..., Any] | None = None
    name: str = ""
    limit: int = 1000

    def __post_init__(self) -> None:
        if self.direction not in (-1, 0, 1):
            raise InputError(f"an event's direction must be -1, 0 or 1, got {self.direction}.")
        if not (isinstance(self.terminal, int) and self.terminal >= 0):
            raise InputError(f"an event's terminal must be True, False or a number of crossings, got {self.terminal}.")


@dataclass
class EventRecord:
    """The crossings of one event.

    Attributes:
        name: of the event.
        count: how many there were, int64, [] or [batch] with a clock per sample.
        ts: their times [K], or [K, batch] with NaN after a sample's last one.
        ys: the states there, [K, *y0.shape], just before `on_event`.
    """

    name: str
    count: Tensor
    ts: Tensor
    ys: Any


class Stretch(NamedTuple):
    """A step as the events see it: from t0 to t1 [B], and the state y(t) [*B, ...] at any times [B] between them."""

    t0: Tensor
    t1: Tensor
    y1: Tensor
    state_at: Callable[[Tensor], Tensor]


class Outcome(NamedTuple):
    """What the events of a step come to.

    Attributes:
        acted: [B], whether the solution goes on from within the step, or ends there.
        t: time at which it does [B], else the step's end.
        before, after: states there, before and after the jump.
        slope: the field at `after`, where any solution goes on from within the step.
        ended, failed: [B], by a terminal event; by too many of them.
    """

    acted: Tensor
    t: Tensor
    before: Tensor
    after: Tensor
    slope: Tensor | None
    ended: Tensor
    failed: Tensor


class EventWatch:
    """The events of one solve, and what they have recorded.

    Args:
        events: the user's.
        flat: the field with its layout and arguments.
        t, y: the start, [B] and [*B, ...].
        direction: +1.0 or -1.0.

    Attributes:
        nan: [B], samples at which an event's value was NaN.
        together: of every step with crossings, the events that had one, and where [B].
    """

    def __init__(self, events: Sequence[Event], flat: FlatField, t: Tensor, y: Tensor, direction: float) -> None:
        self.events, self.flat, self.direction = tuple(events), flat, direction
        self.time_dtype = torch.empty((), dtype=y.dtype).abs().dtype
        self.resolution = 2 * min(torch.finfo(self.time_dtype).eps, torch.finfo(torch.float32).eps)
        size, device = (len(self.events), *t.shape), t.device
        broadcast = (-1, *([1] * t.dim()))
        self.wanted = torch.tensor([event.direction for event in events], device=device).reshape(broadcast)
        self.last = torch.tensor([int(event.terminal) for event in events], device=device).reshape(broadcast)
        self.limit = torch.tensor([event.limit for event in events], device=device).reshape(broadcast)
        jumps = [event.on_event is not None for event in events]
        self.jumps = torch.tensor(jumps, device=device).reshape(broadcast)
        self.count = torch.zeros(size, dtype=torch.int64, device=device)
        self.found: list[list[tuple[Tensor, Tensor, Tensor, Tensor]]] = [[] for _ in events]
        self.together: list[list[tuple[int, Tensor]]] = []
        self.start = y
        self.values = self.evaluate(t, y)
        self.side = torch.sign(self.values)
        self.before = self.values, self.side  # at the start of the step that is looked at
        self.latest = torch.full_like(self.values, -torch.inf)
        self.nan = self.values.isnan().any(0)
        if bool((self.side == 0).any()):
            with torch.no_grad():
                slope = flat(t.to(self.time_dtype), y)
            self._look_ahead(t, y, slope, self.side == 0)

    def value(self, event: Event, t: Tensor, y: Tensor) -> Tensor:
        """g(t, y) [B] of one event, checked."""
        g = event.function(t.to(self.time_dtype), self.flat.layout.unflatten(y), *self.flat.args)
        if not isinstance(g, Tensor) or not g.is_floating_point() or g.numel() != t.numel():
            got = f"{g.dtype} {tuple(g.shape)}" if isinstance(g, Tensor) else type(g).__name__
            wanted = f"[{len(t)}] with a clock per sample" if t.dim() else "with one clock (or use per_sample=True)"
            raise InputError(f"event {self.name(event)} must return {t.numel()} real number(s) {wanted}, got {got}.")
        return g.reshape(t.shape)

    def name(self, event: Event) -> str:
        return repr(event.name) if event.name else f"number {self.events.index(event)}"

    @torch.no_grad()
    def evaluate(self, t: Tensor, y: Tensor) -> Tensor:
        """All events' values [E, *B]."""
        return torch.stack([self.value(event, t, y).to(t.dtype) for event in self.events])

    def look(self, t: Tensor, y: Tensor, accepted: Tensor | bool = True) -> Tensor:
        """Which events changed sign in the step that ended at t, y: [E, *B]. Also notes NaNs."""
        self.before = self.values, self.side
        # where a step was refused nothing is new, least of all the side after a jump
        accepted = torch.as_tensor(accepted, device=t.device)
        self.values = torch.where(accepted, self.evaluate(t, y), self.values)
        self.nan = self.values.isnan().any(0) & accepted
        up = (self.side < 0) & (self.values >= 0) & (self.wanted >= 0)
        down = (self.side > 0) & (self.values <= 0) & (self.wanted <= 0)
        crossed = (up | down) & accepted
        self.side = torch.where(accepted, torch.sign(self.values), self.side)
        return crossed

    def settle(self, stretch: Stretch, crossed: Tensor) -> Outcome:
        """Locate the crossings [E, *B], record them, and apply the first (in time) that ends the solve or jumps."""
        happened = _each(crossed)
        with torch.no_grad():
            # the value at the start may be a rounding error of the wrong sign: the side is known
            low = self.before[1] * self.before[0].abs().clamp(min=_TINY)
            tolerance = self.resolution * torch.maximum(stretch.t0.abs(), stretch.t1.abs())
            roots = [
                self._locate(event, stretch, crossed[e], low[e], self.values[e], tolerance)
                if happened[e]
                else stretch.t1.detach()
                for e, event in enumerate(self.events)
            ]
            along = torch.stack(roots) * self.direction
            acting = crossed & (self.jumps | ((self.last > 0) & (self.count + 1 >= self.last)))
            first = torch.where(acting, along, torch.inf).amin(0)
            acted = first < torch.inf
            fired = crossed & (along <= first + 4 * tolerance)
            self.count = self.count + fired
            ended = (fired & (self.last > 0) & (self.count >= self.last)).any(0)
            failed = self._too_many(acting & fired, along, tolerance) & ~ended
            chosen = acted & acting & (along == first)
            chosen = chosen & (chosen.cumsum(0) == 1)
        self.together.append([(e, where) for e, where in enumerate(fired) if happened[e]])
        t, before = stretch.t1, stretch.y1
        for e, event in enumerate(self.events):
            if happened[e]:
                where = fired[e]
                time = implicit_time(partial(self.value, event), stretch.state_at, roots[e], where)
                state = stretch.state_at(time)
                self.found[e].append((where, self.count[e] - 1, time, state))
                t = torch.where(chosen[e], time, t)
                before = torch.where(over_state(chosen[e], before), state, before)
        after = self._jumped(t, before, fired & acting & ~ended & ~failed)
        slope = None
        if bool((acted & ~ended & ~failed).any()):
            slope = self._go_on_from(t, before, after, acted, fired)
        return Outcome(acted, t, before, after, slope, ended, failed)

    def _locate(
        self, event: Event, stretch: Stretch, crossed: Tensor, low: Tensor, high: Tensor, tolerance: Tensor
    ) -> Tensor:
        """The time of an event's crossing within the step [B]; the step's end where there is none."""
        t0, length = stretch.t0.detach(), (stretch.t1 - stretch.t0).detach()

        def along(theta: Tensor) -> Tensor:
            t = t0 + theta * length
            return torch.where(crossed, self.value(event, t, stretch.state_at(t)).to(t.dtype), 0.0)

        low, high = torch.where(crossed, low, 0.0), torch.where(crossed, high, 0.0)
        theta = find_root(along, low, high, tolerance / length.abs().clamp(min=_TINY))
        return torch.where(crossed, t0 + theta * length, stretch.t1.detach())

    def _too_many(self, acting: Tensor, along: Tensor, tolerance: Tensor) -> Tensor:
        """Where an event passed its limit, or jumped twice within what the time's precision resolves [B]."""
        accumulate = acting & (along <= self.latest + 8 * tolerance)
        self.latest = torch.where(acting, along, self.latest)
        return (accumulate | (self.count > self.limit)).any(0)

    def _jumped(self, t: Tensor, y: Tensor, where: Tensor) -> Tensor:
        """The state after the jumps of all events that happened at once [E, *B], in the order in which they are given."""
        for event, mask, happened in zip(self.events, where, _each(where)):
            if event.on_event is None or not happened:
                continue
            y = torch.where(over_state(mask, y), self.jumped(event, t, y), y)
        return y

    def jumped(self, event: Event, t: Tensor, y: Tensor) -> Tensor:
        """The state after an event's jump, checked."""
        assert event.on_event is not None
        layout = self.flat.layout
        new = layout.flatten(event.on_event(t.to(self.time_dtype), layout.unflatten(y), *self.flat.args))
        if not isinstance(new, Tensor) or new.shape != y.shape:
            got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise InputError(f"on_event of event {self.name(event)} must return a state like y0, got {got}.")
        return new.to(y.dtype)

    def _go_on_from(self, t: Tensor, before: Tensor, after: Tensor, acted: Tensor, fired: Tensor) -> Tensor:
        """Set the sides [E, *B] of the events after a jump; the field there [*B, ...].

        An event that has just happened stands on its surface unless the jump took it away: its side is the one that
        the solution goes to.
        """
        new, old = self.evaluate(t, after), self.evaluate(t, before)
        slope = self.flat(t.to(self.time_dtype), after)
        self.side = torch.where(acted, torch.sign(new), self.side)
        self.values = torch.where(acted, new, self.values)
        on_surface = acted & fired & (new.abs() <= 4 * old.abs())
        self._look_ahead(t, after, slope, on_surface)
        return slope

    def _look_ahead(self, t: Tensor, y: Tensor, slope: Tensor, on_surface: Tensor) -> None:
        """The side [E, *B] that the solution goes to from the surface."""
        self.side = self.side.clone()
        for e, here in enumerate(_each(on_surface)):
            if here:
                rate = rate_along(partial(self.value, self.events[e]), t, y, slope)
                if rate is not None:
                    side = torch.sign(rate).to(self.side.dtype) * self.direction
                    # at rest there: whatever comes next is the same event again, and they accumulate
                    side = torch.where(side == 0, self.before[1][e], side)
                    self.side[e] = torch.where(on_surface[e], side, self.side[e])

    # What the solve tells its caller

    def records(self) -> tuple[EventRecord, ...]:
        return tuple(self._record(e) for e in range(len(self.events)))

    def _record(self, e: int) -> EventRecord:
        count, layout = self.count[e], self.flat.layout
        batch, state = count.numel(), self.start.shape[count.dim() :]
        most = int(count.max()) if batch else 0
        ts = self.latest.new_full((most, batch), torch.nan)
        ys = self.start.detach().new_full((most, batch, *state), torch.nan)
        for where, index, time, y in self.found[e]:
            sample = where.reshape(-1).nonzero()[:, 0]
            at = (index.reshape(-1)[sample], sample)
            ts = ts.index_put(at, time.reshape(-1)[sample])
            ys = ys.index_put(at, y.reshape(batch, *state)[sample])
        ts, ys = ts.reshape(most, *count.shape), ys.reshape(most, *self.start.shape)
        return EventRecord(self.events[e].name, count, ts, layout.unflatten(ys, (most,)))

    def cause(self) -> str:
        """One line on an event whose value is NaN; empty if none is."""
        bad = [self.name(event) for event, value in zip(self.events, self.values) if bool(value.isnan().any())]
        return f"the value of event {' and '.join(bad)} is NaN" if bad else ""


def _each(happened: Tensor) -> list[bool]:
    """Whether each event [E, *B] happened anywhere: one host read."""
    return happened.reshape(len(happened), -1).any(1).tolist()
