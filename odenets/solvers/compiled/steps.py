"""Programs over the steps of an explicit Runge-Kutta method: one that looks for them, one that takes them, one that goes
back through them with a gradient. Each is a loop over one step; see `trace` for what a program is.

A step's polynomial is kept as the coefficients of its powers, q_d = sum_i B_id k_i for y(theta) = y0 + h sum_d theta^d q_d,
so that states at output times, and what reaches the step from them, need no loop over outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..initial_step import initial_step
from ..masked import RUNNING, Clock, Stepper
from ..norms import rms_norm_per_sample, state_norm
from ..step import over_state, runge_kutta_step, stage_times
from ..tableau import ButcherTableau
from .loop import LoopSettings
from .trace import TracedField, loop, pulled


@dataclass(frozen=True)
class Kept:
    """What is kept of every step: the state that it starts from, and the coefficients of its polynomial."""

    states: bool
    polynomials: bool


@dataclass(frozen=True)
class Search:
    """The adaptive loop; notes when every step starts, and what is `kept` of it.

    Called with ts [2] or [batch, 2], the inputs of `loop.Inputs` of the same names, nodes [s], and a tensor with as many
    rows as steps can be noted. Returns the clock's parts, the iterations, the starts [rows, *B], and what is kept
    [rows, *state] and [rows, degree, *state], or [rows, batch, degree, ...] with a clock per sample.
    """

    settings: LoopSettings
    kept: Kept

    def __call__(
        self, field: TracedField, t: Tensor, y: Tensor, ts: Tensor, rtol: Tensor, atol: Tensor, first_step: Tensor,
        max_steps: Tensor, nodes: Tensor, room: Tensor,
    ) -> Sequence[Tensor]:  # fmt: skip
        settings, kept = self.settings, self.kept
        time_dtype = torch.empty((), dtype=y.dtype).abs().dtype
        precision = torch.promote_types(time_dtype, torch.float32)
        norm = rms_norm_per_sample if settings.per_sample else state_norm(settings.layout, settings.norm)

        def stepper_of(field, limit, rtol, atol, max_steps, nodes) -> Stepper:
            return Stepper(
                field, settings.tableau, nodes, limit, settings.direction, rtol, atol, norm, settings.controller,
                settings.min_step, settings.max_step, max_steps, settings.per_sample,
            )  # fmt: skip

        start = ts[..., 0].clone()
        outer = (ts[..., -1].clone(), rtol.to(precision), atol.to(precision), max_steps, nodes)
        f = field(t, y)
        if settings.given_step:
            size = first_step.expand(start.shape).clone()
        else:
            order = settings.tableau.control_order - 1
            size = initial_step(field, start, y, f, settings.direction, order, *outer[1:3], norm, outer[0])
        clock = stepper_of(field, *outer).start(start, size, y, f)
        rows, degree = room.shape[0], len(settings.dense[0])
        written = [start.new_empty(rows, *start.shape)]
        if kept.states:
            written.append(y.new_empty(rows, *y.shape))
        if kept.polynomials:
            written.append(y.new_empty(rows, *start.shape, degree, *y.shape[start.dim() :]))
        parts = len(clock)
        limit = torch.full((), rows - 1, dtype=torch.int64, device=y.device)

        def running(iterations: Tensor, *values: Tensor) -> Tensor:
            clock = Clock(*values[:parts])
            return ((clock.status == RUNNING) & (clock.accepted < values[-1])).any()

        def advance(field: TracedField, iterations: Tensor, *values: Tensor) -> Sequence[Tensor]:
            before, outer = Clock(*values[:parts]), values[parts : parts + 5]
            last, times, *places = values[parts + 5 :]
            after, step = stepper_of(field, *outer)(before)
            row = torch.minimum(before.accepted, last)
            at = (row[None],) if not row.dim() else (row, torch.arange(len(row), device=row.device))

            def note(where: Tensor, what: Tensor) -> None:
                where.index_put_(at, what if row.dim() else what[None])

            note(times, before.t)
            if kept.states:
                note(places.pop(0), before.y)
            if kept.polynomials:
                powers = torch.stack(powers_of(settings.dense, step.stages), row.dim())
                note(places.pop(0), powers)
            return (iterations + 1, *after)

        zero = torch.zeros((), dtype=torch.int64, device=y.device)
        found = loop(field, running, advance, (zero, *clock), (*outer, limit), written)
        return (*found[1:], found[0], *written)


@dataclass(frozen=True)
class Take:
    """Steps along a grid [N + 1]; returns the state at its end and what is kept of every step, [rows, *state] and
    [rows, degree, *state].

    Called with the nodes [s], the grid, the row that each step's belongs to, int64 [N + 1], and a tensor with as many rows.
    """

    tableau: ButcherTableau
    kept: Kept

    def __call__(
        self, field: TracedField, t: Tensor, y: Tensor, nodes: Tensor, grid: Tensor, row: Tensor, room: Tensor
    ) -> Sequence[Tensor]:
        tableau, kept = self.tableau, self.kept
        rows, dense = room.shape[0], tuple(map(tuple, tableau.dense.tolist()))
        written = []
        if kept.states:
            written.append(y.new_empty(rows, *y.shape))
        if kept.polynomials:
            written.append(y.new_empty(rows, len(dense[0]), *y.shape))
        end = torch.full((), grid.shape[0] - 1, dtype=torch.int64, device=y.device)
        first = [field(t, y)] if tableau.fsal else []

        def ahead(n: Tensor, *values: Tensor) -> Tensor:
            return n < values[-1]

        def advance(field: TracedField, n: Tensor, y: Tensor, *values: Tensor) -> Sequence[Tensor]:
            slopes, (nodes, grid, row, _, *places) = values[: len(first)], values[len(first) :]
            y1, stages = one_step(field, tableau, nodes, grid, n, y, slopes, kept.polynomials)
            at = (row.index_select(0, n[None]),)
            if kept.states:
                places.pop(0).index_put_(at, y[None])
            if kept.polynomials:
                places.pop(0).index_put_(at, torch.stack(powers_of(dense, stages))[None])
            return (n + 1, y1, *([stages[tableau.stages - 1]] if tableau.fsal else []))

        zero = torch.zeros((), dtype=torch.int64, device=y.device)
        found = loop(field, ahead, advance, (zero, y, *first), (nodes, grid, row, end), written)
        return (found[1], *written)


@dataclass(frozen=True)
class PullBack:
    """Back through N steps along a grid [N + 1, *B], from the gradient of the state at its end.

    Called with that gradient as y, the nodes [s], the grid, N as int64 [], the states that the steps start from
    [N or more, *state], and where there are outputs, the gradients that reach the steps from them [N + 1, 1 + degree,
    *state]: of the state at the start, then of h q_d (none of those with `degree` 0). Returns the gradient of the first
    state, and those of the field's params.

    Attributes:
        outputs: whether there are any.
        inside: whether any lie inside a step.
    """

    tableau: ButcherTableau
    outputs: bool
    inside: bool

    def __call__(
        self, field: TracedField, t: Tensor, y: Tensor, nodes: Tensor, grid: Tensor, end: Tensor, states: Tensor,
        *reached: Tensor,
    ) -> Sequence[Tensor]:  # fmt: skip
        tableau, count = self.tableau, len(field.params)
        dense = tuple(map(tuple, tableau.dense.tolist()))

        def ahead(n: Tensor, *values: Tensor) -> Tensor:
            return n > 0

        def back(field: TracedField, n: Tensor, g: Tensor, *values: Tensor) -> Sequence[Tensor]:
            totals, (nodes, grid, states, *reached) = values[:count], values[count:]
            n = n - 1
            with torch.enable_grad():
                field = field.with_leaves()
                y = row_of(states, n).detach().requires_grad_()
                y1, stages = one_step(field, tableau, nodes, grid, n, y, (), self.inside)
                roots, cotangents = [y1], [g]
                if self.inside:
                    h = over_state(row_of(grid, n + 1) - row_of(grid, n), y).to(y.dtype)
                    moments = row_of(reached[0], n).unbind(0)[1:]
                    for stage, weights in zip(stages, dense):
                        roots.append(stage)
                        cotangents.append(h * combined(weights, moments))
                found = pulled(roots, [y, *field.params], cotangents)
            g = found[0] + row_of(reached[0], n)[0] if self.outputs else found[0]
            return (n, g, *(total + part for total, part in zip(totals, found[1:])))

        totals = [torch.zeros_like(p) for p in field.params]
        found = loop(field, ahead, back, (end, y, *totals), (nodes, grid, states, *reached))
        return found[1:]


def one_step(
    field: TracedField, tableau: ButcherTableau, nodes: Tensor, grid: Tensor, n: Tensor, y: Tensor,
    first: Sequence[Tensor], for_polynomial: bool,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """The n-th step from y, with `first` as its first stage where that is known: the new state and the stages, one more
    where the polynomial takes f at the end."""
    time_dtype = torch.empty((), dtype=y.dtype).abs().dtype
    t, t1 = row_of(grid, n), row_of(grid, n + 1)
    h = t1 - t
    times = stage_times(nodes, t, h, time_dtype)
    f = first[0] if first else field(times[0], y)
    trial = runge_kutta_step(field, tableau, times, over_state(h, y).to(y.dtype), y, f, with_error=False)
    stages = trial.stages
    if for_polynomial and len(tableau.dense) > len(stages):
        stages = [*stages, field(t1.to(time_dtype), trial.y1)]
    return trial.y1, stages


def powers_of(dense: Sequence[Sequence[float]], stages: Sequence[Tensor]) -> list[Tensor]:
    """q_d = sum_i B_id k_i for every power d = 1, 2, ..."""
    return [combined(column, stages) for column in zip(*dense)]


def combined(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    terms = [tensor * weight for weight, tensor in zip(weights, tensors) if weight]
    return sum(terms[1:], terms[0]) if terms else torch.zeros_like(tensors[0])


def row_of(x: Tensor, n: Tensor) -> Tensor:
    """x[n] for an index that is a tensor []."""
    return x.index_select(0, n[None])[0]
