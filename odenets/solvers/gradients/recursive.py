"""Keep a few states, and get at the others by running steps again: binomial checkpointing.

Memory c D + s (D + a) with c slots; N steps of known number are run again as few times as is possible (Revolve),
adaptive steps at most as often each (see `binomial`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..errors import InputError
from ..fixed import FixedIntegrator
from .base import SolveProblem
from .binomial import Online, placed, split
from .recomputed import Recomputed, Sweep
from .record import State
from .replay import Pull, Replay


@dataclass(frozen=True)
class Recursive(Recomputed):
    """Exact; c states are kept, each step is run again about log N times with c about log N.

    Args:
        slots: number c of states kept, the first included; None is log2 N, with adaptive steps as N grows.
    """

    name: ClassVar[str] = "recursive"
    slots: int | None = None

    def __post_init__(self) -> None:
        check_slots(self.slots)

    def sweep(self) -> Sweep:
        return SomeStates(self.slots, Replay.pull_back)


def check_slots(slots: int | None) -> None:
    if slots is not None and slots < 1:
        raise InputError(f"slots must be at least 1, got {slots}.")


class SomeStates(Sweep):
    """Keeps at most `slots` states; `pull` takes a gradient back through one step."""

    def __init__(self, slots: int | None, pull: Pull) -> None:
        self.slots, self.pull = slots, pull
        self.places: set[int] | None = None
        self.online = Online()
        self.states: dict[int, State] = {}  # ascending
        self.latest: State | None = None

    def started(self, problem: SolveProblem) -> None:
        n = number_of_steps(problem)
        if n is not None:
            self.slots = self.slots or default_slots(n)
            self.places = set(placed(n, self.slots))

    def keep(self, n: int, state: State) -> None:
        self.latest = state
        if self.places is not None:
            if n in self.places:
                self.states[n] = state
            return
        gone = self.online.place(n, self.slots or default_slots(n + 1))
        if gone != n:
            self.states[n] = state
            if gone is not None:
                del self.states[gone]

    def run(self, replay: Replay, grads: State) -> State:
        end = len(replay.records)
        slots = self.slots or default_slots(end)
        # the first state stays: if backward is run once more, everything follows from it
        kept, latest = list(self.states.items()), self.latest
        self.states, self.latest = dict(kept[:1]), None
        # passed on in a list, so that no frame of the recursion holds on to an old gradient
        holder = [grads]
        del grads
        if latest is not None:
            end -= 1
            holder.append(self.pull(replay, end, latest, holder.pop()))
            latest = None
        while kept:
            start, state = kept.pop()
            self._reverse(replay, start, end, state, slots - len(kept), holder)
            end = start
        return holder[0]

    def _reverse(self, replay: Replay, start: int, end: int, state: State, slots: int, holder: list[State]) -> None:
        """Back through the steps start ... end - 1 with so many slots, of which the first holds `state`."""
        while end - start > 1:
            ahead = split(end - start, slots) if slots > 1 else end - start - 1
            later = state
            for n in range(start, start + ahead):
                later = replay.advance(n, later)
            self._reverse(replay, start + ahead, end, later, slots - 1, holder)
            del later
            end = start + ahead
        if end > start:
            holder.append(self.pull(replay, start, state, holder.pop()))


def default_slots(n: int) -> int:
    return max(2, math.ceil(math.log2(max(n, 1))))


def number_of_steps(problem: SolveProblem) -> int | None:
    """Number of steps of a solve on a fixed grid, None where only the solve will tell."""
    integrator = problem.start(problem.ts[0].detach(), problem.y.detach())
    if not isinstance(integrator, FixedIntegrator):
        return None
    integrator.aim(problem.ts[1:].detach())
    return len(integrator.points) - 1
