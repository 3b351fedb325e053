"""Reversible methods on a grid, compiled: a loop forward, and one that steps back and forms the gradient on its way.

Memory is that of the outputs, however many steps there are. As in `gradients/reversible.py` a step back evaluates the field
where the step forward did, and one evaluation serves the state before the step and the gradient; the very first step starts
from the state that is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import Status
from ..gradients.base import Gradient, SolveProblem
from ..one_step import Accuracy
from ..solution import Solution, Stats
from ..solver import method_of
from ..step import stage_times
from ..structured.reversible import BoundReversible, Pair, over_pair
from . import trace
from .differentiable import Differentiable, of_any_length, parameters_of, room_for, start_of
from .steps import row_of
from .trace import TracedField, loop, pulled


def is_reversible(method: Any) -> bool:
    """Whether it is a method with a `BoundReversible`."""
    return hasattr(method, "wide")


def solve_fixed(
    problem: SolveProblem, gradient: Gradient, grid: Tensor, places: list[int], differentiated: bool
) -> Solution:
    """The solution with flat states on a grid [N + 1], with outputs at these places on it.

    Raises:
        CannotCapture: if the field cannot be compiled.
    """
    run = Walk(problem, grid, places)
    params = parameters_of(problem, gradient) if differentiated else ()
    ys = run.forward()
    if differentiated:
        run.ys = ys
        ys = Differentiable.apply(run, problem.y, *params)
    ys = torch.cat([problem.y[None], ys])
    status = torch.where(torch.isfinite(ys[-1].detach()).all(), int(Status.SUCCESS), int(Status.NON_FINITE))
    return Solution(problem.ts, ys, run.stats, status)


class Walk:
    """One solve, for `Differentiable`.

    Args:
        problem: the solve.
        grid: the steps' starts and the end [N + 1].
        places: those of the output times on it, the first being 0.
    """

    def __init__(self, problem: SolveProblem, grid: Tensor, places: list[int]) -> None:
        method: Any = method_of(problem.solver.method)  # type: ignore[union-attr]
        self.method = method
        self.flat, self.grid, self.steps = problem.flat, of_any_length(grid), len(grid) - 1
        self.y0, self.t0 = start_of(problem)
        self.nodes = torch.tensor(self.method.c, dtype=grid.dtype, device=grid.device)
        self.outputs = len(places) - 1
        rows = torch.full((len(grid),), self.outputs)  # states at other times are written over one another
        rows[places[1:]] = torch.arange(self.outputs)
        self.rows = of_any_length(rows.to(grid.device))
        self.ys: Tensor | None = None
        bound, begun = method.bind(None, Accuracy()), 0

        def derivative() -> Tensor:
            nonlocal begun
            begun = 1
            return self.y0

        bound.begin(self.y0, derivative)
        calls = bound.evaluations * bound.calls
        self.stats = Stats(self.steps * calls + begun, self.steps)

    def forward(self) -> Tensor:
        """The states [T - 1, *state]."""
        found, _ = self._call(Forth(self.method), self.y0.detach(), room_for(self.outputs + 1, self.y0))
        self.pair, ys = found[:-1], found[-1]
        return ys[: self.outputs]

    def backward(self, grad_ys: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        grads = of_any_length(torch.cat([grad_ys, torch.zeros_like(grad_ys[:1])]))
        steps = torch.tensor(self.steps, device=grads.device)
        found, read = self._call(Back(self.method), self.y0.detach(), steps, grads, *self.pair)
        bound = self.method.bind(None, Accuracy())
        self.stats.nfe_backward = self.steps * bound.evaluations * bound.calls
        return found[0], {id(tensor): total for tensor, total in zip(read, found[1:])}

    def _call(self, build: Any, y: Tensor, *inputs: Tensor) -> Any:
        t = self.t0.clone()
        return trace.call(build, build, self.flat, t, y, self.nodes, self.grid, self.rows, *inputs)


@dataclass(frozen=True)
class Forth:
    """Along the grid. Called with nodes, the grid [N + 1], the row that each state belongs to [N + 1] and a tensor with as
    many rows; returns the last pair, and the states [rows, *state].
    """

    method: Any

    def __call__(
        self, field: TracedField, t: Tensor, y: Tensor, nodes: Tensor, grid: Tensor, rows: Tensor, room: Tensor
    ) -> Sequence[Tensor]:
        bound = _bound(self.method, field, y)
        pair = bound.begin(bound.widened(y), lambda: field(t, y))
        parts, dtype = len(pair), y.dtype
        ys = y.new_empty(room.shape[0], *y.shape)
        end = torch.full((), grid.shape[0] - 1, dtype=torch.int64, device=y.device)

        def ahead(n: Tensor, *values: Tensor) -> Tensor:
            return n < values[-1]

        def advance(field: TracedField, n: Tensor, *values: Tensor) -> Sequence[Tensor]:
            pair, (nodes, grid, rows, _, ys) = values[:parts], values[parts:]
            bound = _bound(self.method, field, ys)
            step = _Times(bound, nodes, grid, n, dtype)
            pair = bound.forth(over_pair(step.h, pair), pair, step.evaluate)
            ys.index_put_((rows.index_select(0, n[None] + 1),), pair[0].to(dtype)[None])
            return (n + 1, *pair)

        zero = torch.zeros_like(end)
        found = loop(field, ahead, advance, (zero, *pair), (nodes, grid, rows, end), (ys,))
        return (*found[1:], ys)


@dataclass(frozen=True)
class Back:
    """From the last pair back to the start. Called with the first state as y, the nodes, grid and rows as above, N, the
    gradients of the states [rows, *state], zero in the row of those that are no outputs, and the pair. Returns the gradients
    of the first state and of the field's params.
    """

    method: Any

    def __call__(
        self, field: TracedField, t: Tensor, y: Tensor, nodes: Tensor, grid: Tensor, rows: Tensor, steps: Tensor,
        grads: Tensor, *pair: Tensor,
    ) -> Sequence[Tensor]:  # fmt: skip
        parts, dtype, params = len(pair), y.dtype, len(field.params)

        def behind(n: Tensor, *values: Tensor) -> Tensor:
            return n > 1

        def back(field: TracedField, n: Tensor, *values: Tensor) -> Sequence[Tensor]:
            pair, totals = values[:parts], values[2 * parts : 2 * parts + params]
            nodes, grid, rows, grads = values[2 * parts + params :]
            after = _with_output(values[parts : 2 * parts], grads, rows, n)
            n = n - 1
            leaves = field.with_leaves()
            bound = _bound(self.method, leaves, grads)
            step, earlier = (_Times(bound, nodes, grid, m, dtype) for m in (n, n - 1))
            evaluations: dict[int, tuple[Tensor, Tensor]] = {}

            def evaluate(i: int, x: Tensor) -> Tensor:
                with torch.enable_grad():
                    point = x.detach().requires_grad_()
                    evaluations[i] = point, step.evaluate(i, point)
                return evaluations[i][1].detach()

            h: Any = over_pair(step.h, pair)
            before = bound.back(h, pair, evaluate, lambda x: earlier.evaluate(bound.evaluations - 1, x))
            given, found = _pulled_through(bound, h, before, after, evaluations, leaves.params)
            return (n, *before, *given, *(total + part for total, part in zip(totals, found)))

        zeros = [torch.zeros_like(x) for x in pair]
        carried = (steps, *pair, *zeros, *(torch.zeros_like(p) for p in field.params))
        found = loop(field, behind, back, carried, (nodes, grid, rows, grads))
        totals, n = found[1 + 2 * parts :], torch.ones_like(steps)
        given = _with_output(found[1 + parts : 1 + 2 * parts], grads, rows, n)
        with torch.enable_grad():
            leaves, start = field.with_leaves(), y.detach().requires_grad_()
            bound = _bound(self.method, leaves, y)
            first = bound.begin(bound.widened(start), lambda: leaves(t, start))
            step = _Times(bound, nodes, grid, n - 1, dtype)
            after = bound.forth(over_pair(step.h, first), first, step.evaluate)
            last = pulled(after, [start, *leaves.params], given)
        return (last[0], *(total + part for total, part in zip(totals, last[1:])))


class _Times:
    """The n-th step's size and evaluations."""

    def __init__(self, bound: BoundReversible, nodes: Tensor, grid: Tensor, n: Tensor, dtype: torch.dtype) -> None:
        t, self.h, self.bound = row_of(grid, n), row_of(grid, n + 1) - row_of(grid, n), bound
        self.times = stage_times(nodes, t, self.h, torch.empty((), dtype=dtype).abs().dtype)

    def evaluate(self, i: int, x: Tensor) -> Tensor:
        return self.bound.evaluate(i, self.times, self.h, x)


def _bound(method: Any, field: TracedField, like: Tensor) -> BoundReversible:
    bound: BoundReversible = method.bind(field, Accuracy())
    bound.dtype, bound.with_error = like.dtype, False
    return bound


def _with_output(given: Sequence[Tensor], grads: Tensor, rows: Tensor, n: Tensor) -> list[Tensor]:
    """The gradients of the pair after n steps with that of the output there: the state is the pair's first part."""
    output = row_of(grads, row_of(rows, n))
    return [given[0] + output.to(given[0].dtype), *given[1:]]


def _pulled_through(
    bound: BoundReversible,
    h: Tensor,
    before: Pair,
    given: Sequence[Tensor],
    evaluations: dict[int, tuple[Tensor, Tensor]],
    params: Sequence[Tensor],
) -> tuple[list[Tensor], list[Tensor]]:
    """The gradients of the pair before a step and of the params, from those of the pair after it. Between the evaluations
    the step is affine; they are gone through from the last to the first.
    """
    with torch.enable_grad():
        start = tuple(x.detach().requires_grad_() for x in before)
        values = {i: value.detach().requires_grad_() for i, (_, value) in evaluations.items()}
        points: list[Tensor] = []

        def known(i: int, x: Tensor) -> Tensor:
            points.append(x)
            return values[i]

        roots, cotangents = list(bound.forth(h, start, known)), list(given)
        totals: list[Tensor] = []
        for i in reversed(range(bound.evaluations)):
            (arriving,) = pulled(roots, [values[i]], cotangents)
            point, value = evaluations[i]
            reached, *found = pulled([value], [point, *params], [arriving])
            totals = [a + b for a, b in zip(totals, found)] if totals else found
            roots.append(points[i])
            cotangents.append(reached)
        return pulled(roots, start, cotangents), totals
