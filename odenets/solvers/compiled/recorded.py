"""Gradients through recorded steps: those of an adaptive solve, once they are found, or of a fixed grid.

Backward, a loop goes from step to step: it takes a step once more from the state that it started from, with a graph, and
pulls the gradient back through it. gradient="autograd" and "checkpoint" keep the state before every step; "recursive" keeps
some of them and gets at the others by taking steps again, in pieces of `PIECE`. The gradient is exactly that of the steps
taken: the search for their sizes and rejected trials have none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..constants import constant
from ..errors import Status
from ..gradients.base import Gradient, SolveProblem
from ..gradients.binomial import placed, split
from ..gradients.recursive import Recursive, default_slots
from ..masked import Clock
from ..solution import Solution, Stats
from ..solver import method_of
from ..step import over_state
from ..tableau import ButcherTableau
from . import trace
from .adaptive import numbers_of, settings_of, solution_of
from .differentiable import Differentiable, nodes_of, of_any_length, parameters_of, room_for, start_of
from .loop import LoopSettings, Outcome
from .outputs import Outputs
from .steps import Kept, PullBack, Search, Take

PIECE = 16  # steps that "recursive" runs again at once
ROOM = 256  # steps noted at first; a solve with more of them begins again with room for more
BYTES = 2**28  # for their states at first


def solve_adaptive(problem: SolveProblem, gradient: Gradient) -> Solution | None:
    """The solution with flat states, differentiable; None if it fails, so that the eager solve says why.

    Raises:
        CannotCapture: if the field cannot be compiled.
    """
    settings = settings_of(problem, problem.save_at != "end" and problem.ts.shape[-1] > 2)
    keeps = not isinstance(gradient, Recursive)
    room = max(8, min(ROOM, BYTES // (problem.y.numel() * problem.y.element_size()))) if keeps else ROOM
    searched = None
    while searched is None:
        searched = _search(problem, settings, Kept(keeps, keeps and settings.outputs), room)
        room *= 8
    clock, iterations, starts, kept, read = searched
    n = int(clock.accepted.amax())
    if bool(clock.status.any()):
        return None
    counts = clock.accepted.reshape(-1)
    grid = torch.cat([starts[:n], clock.t[None]])
    states = kept[0][:n] if keeps else None
    if settings.per_sample:  # steps of size zero from where they ended for those that have arrived
        ahead = torch.arange(n, device=counts.device)[:, None] < counts
        grid[:n] = torch.where(ahead, grid[:n], clock.t)
        assert states is not None
        states = torch.where(over_state(ahead, states), states, clock.y)
    outputs = None
    if settings.outputs:
        ts = problem.ts.detach()
        ts = ts.T[1:] if ts.dim() > 1 else ts[1:]
        if settings.per_sample and ts.dim() == 1:
            ts = ts[:, None].expand(-1, len(counts))
        outputs = Outputs.among(grid, ts, problem.direction, len(settings.dense[0]))
    run = Recorded(problem, settings.tableau, grid, outputs, gradient)
    if states is None:
        run.sweep()
    else:
        run.states = states
        run.ys = clock.y[None] if outputs is None else outputs.states(states, clock.y, kept[1])
    ys = Differentiable.apply(run, problem.y, *parameters_of(problem, gradient, read))
    found = solution_of(problem, settings, Outcome(torch.cat([problem.y[None], ys]), clock, iterations))
    run.stats = found.stats
    return found


def solve_fixed(problem: SolveProblem, gradient: Gradient, grid: Tensor, places: list[int]) -> Solution:
    """The same on a grid [N + 1], with outputs at these places on it.

    Raises:
        CannotCapture: if the field cannot be compiled.
    """
    params = parameters_of(problem, gradient)
    tableau: Any = method_of(problem.solver.method)  # type: ignore[union-attr]
    steps = len(grid) - 1
    outputs = None if places[1:] == [steps] else Outputs.on_grid(steps, places[1:], grid)
    run = Recorded(problem, tableau, grid, outputs, gradient)
    run.sweep()
    ys = torch.cat([problem.y[None], Differentiable.apply(run, problem.y, *params)])
    status = torch.where(torch.isfinite(ys[-1].detach()).all(), int(Status.SUCCESS), int(Status.NON_FINITE))
    run.stats = Stats(steps * (tableau.stages - tableau.fsal) + tableau.fsal, steps)
    return Solution(problem.ts, ys, run.stats, status)


def _search(problem: SolveProblem, settings: LoopSettings, kept: Kept, room: int) -> Any:
    """The clock at the end, iterations, starts of the steps, what is kept of them, and what the field read; None if there
    was not enough room.
    """
    ts = problem.ts.detach()
    ts = ts[..., :: ts.shape[-1] - 1]
    ts = ts.expand(len(problem.y), 2).contiguous() if settings.per_sample else ts.clone()
    y, t = start_of(problem)
    found, read = trace.call(
        Search(settings, kept), (settings, kept), problem.flat, t, y, ts,
        *numbers_of(problem), nodes_of(settings.tableau, ts), room_for(room, y),
    )  # fmt: skip
    parts = len(Clock._fields)
    clock = Clock(*found[:parts])
    if bool((clock.status == -1).any()):
        return None
    return clock, found[parts], found[parts + 1], found[parts + 2 :], read


class Recorded:
    """Steps that are gone back through, in pieces.

    Args:
        problem: the solve.
        tableau: its method.
        grid: the steps' starts and the end [N + 1, *B].
        outputs: where the output times lie; None for the last state alone.
        gradient: how to differentiate.

    Attributes:
        states: with one piece, those that the steps start from [N or more, *state].
        ys: the states at the output times after the start [T - 1, *state].
        stats: where to write the cost.
    """

    def __init__(
        self, problem: SolveProblem, tableau: ButcherTableau, grid: Tensor, outputs: Outputs | None, gradient: Gradient
    ) -> None:
        self.flat, self.tableau, self.grid, self.outputs = problem.flat, tableau, grid, outputs
        self.y0, self.t0 = start_of(problem)
        self.nodes = nodes_of(tableau, grid)
        self.steps = len(grid) - 1
        self.inside = outputs is not None and outputs.degree > 0
        self.states: Tensor | None = None
        self.checkpoints: dict[int, Tensor] = {}  # the states that pieces start from, ascending
        self.size = PIECE if isinstance(gradient, Recursive) else self.steps
        self.pieces = -(-self.steps // self.size)
        self.slots = getattr(gradient, "slots", None) or default_slots(self.pieces)
        self.ys: Tensor | None = None
        self.stats = Stats()

    def sweep(self) -> None:
        """Take the steps; keep what the backward pass starts from."""
        y, places = self.y0, set(placed(self.pieces, self.slots))
        found = []
        for piece in range(self.pieces):
            if piece in places and self.pieces > 1:
                self.checkpoints[piece] = y
            after, states, polynomials = self._take(piece, y)
            if self.outputs is not None:
                outputs = self.outputs.part(*self._span(piece))[0]
                found.append(outputs.states(states, after, polynomials))
            y = after
        self.states = states if self.pieces == 1 else None
        self.ys = torch.cat(found) if found else y[None]

    def backward(self, grad_ys: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """The gradients of the first state, and of what the field reads by the tensors' ids."""
        self.totals: dict[int, Tensor] = {}
        g = grad_ys[-1] if self.outputs is None else torch.zeros_like(self.y0)
        if self.pieces == 1:
            g = self._pull(0, self.y0, self.states, g, grad_ys)
        else:
            kept, end = list(self.checkpoints.items()), self.pieces
            while kept:
                start, y = kept.pop()
                g = self._reverse(start, end, y, self.slots - len(kept), g, grad_ys)
                end = start
        return g, self.totals

    def _reverse(self, start: int, end: int, y: Tensor, slots: int, g: Tensor, grad_ys: Tensor) -> Tensor:
        """Back through the pieces start ... end - 1 with so many slots, of which the first holds `y`."""
        while end - start > 1:
            ahead = split(end - start, slots) if slots > 1 else end - start - 1
            later = y
            for piece in range(start, start + ahead):
                later = self._take(piece, later)[0]
            g = self._reverse(start + ahead, end, later, slots - 1, g, grad_ys)
            end = start + ahead
        return self._pull(start, y, None, g, grad_ys) if end > start else g

    def _span(self, piece: int) -> tuple[int, int]:
        return piece * self.size, min((piece + 1) * self.size, self.steps)

    def _grid(self, piece: int) -> Tensor:
        start, end = self._span(piece)
        return of_any_length(self.grid[start : end + 1])

    def _take(self, piece: int, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The state after a piece's steps, those that they start from, and their polynomials where outputs need them."""
        kept, grid = Kept(True, self.inside), self._grid(piece)
        key = (self.tableau, kept)
        t = grid[0].to(self.t0.dtype)
        rows = of_any_length(torch.arange(len(grid), device=grid.device))
        found, _ = trace.call(Take(*key), key, self.flat, t, y.detach(), self.nodes, grid, rows, room_for(len(grid), y))
        return found[0], found[1], found[2] if self.inside else None

    def _pull(self, piece: int, y: Tensor, states: Tensor | None, g: Tensor, grad_ys: Tensor) -> Tensor:
        """The gradient of the state before a piece, from that of the state after it."""
        if states is None:
            states = self._take(piece, y)[1]
        grid, reached = self._grid(piece), []
        if self.outputs is not None:
            outputs, which = self.outputs.part(*self._span(piece)) if self.pieces > 1 else (self.outputs, slice(None))
            reached = [of_any_length(outputs.reached(grad_ys[which]))]
            g = g + reached[0][-1, 0]
        key = (self.tableau, self.outputs is not None, self.inside)
        t = grid[0].to(self.t0.dtype)
        steps = constant("steps", len(grid) - 1, torch.int64, g.device)
        found, read = trace.call(
            PullBack(*key), ("back", *key), self.flat, t, g.detach().contiguous(), self.nodes, grid, steps,
            of_any_length(states), *reached,
        )  # fmt: skip
        for tensor, total in zip(read, found[1:]):
            known = self.totals.get(id(tensor))
            self.totals[id(tensor)] = total if known is None else known + total
        calls = (len(grid) - 1) * self.tableau.stages
        calls *= 1 if self.pieces == 1 else 2
        self.stats.nfe_backward = (self.stats.nfe_backward or 0) + calls
        return found[0]
