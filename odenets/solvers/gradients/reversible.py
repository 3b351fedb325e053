"""Step back from the end: a reversible method's own states, reconstructed, in memory that does not depend on N.

Exact up to the rounding of the reconstruction, which each method's module describes. A step back evaluates the field
where the step forward did, so that one pass over the field serves both the reconstruction and the gradient: about one
forward solve more than autograd. The step is affine but for those evaluations, so that between them the gradient is
carried by its transposed coefficients, last evaluation first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import InputError
from ..structured.reversible import AffinePart, BoundReversible, Column, Pair
from ..structured.splitting import BoundSplitting
from .base import SolveProblem
from .recomputed import Recomputed, Sweep
from .record import State
from .replay import Replay, StepTimes, gradients


@dataclass(frozen=True)
class Reversible(Recomputed):
    """For reversible methods: reversible_heun, alf, Runge-Kutta methods coupled by `odenets.solvers.Reversible`, and
    symplectic methods, whose shears are undone one by one (not with fields that draw random numbers).
    """

    name: ClassVar[str] = "reversible"

    def check(self, problem: SolveProblem) -> None:
        super().check(problem)
        bound = problem.start(problem.ts.reshape(-1)[0].detach(), problem.y.detach()).bound  # type: ignore[attr-defined]
        if not isinstance(bound, (BoundReversible, BoundSplitting)):
            raise InputError(
                f"gradient='reversible' needs a method that can be stepped back, got {problem.solver.method!r}: use "
                "reversible_heun, alf, Reversible(base) or a symplectic method, or gradient='recursive'."
            )

    def sweep(self) -> Sweep:
        return _StepBack()


@dataclass
class _Evaluation:
    """One evaluation of a step with its graph: value = evaluate(i, point) from the leaves point and times."""

    point: Tensor
    value: Tensor
    times: StepTimes


class _StepBack(Sweep):
    from_the_end = True

    def run(self, replay: Replay, grads: State) -> State:
        bound, end = replay.recording.bound, len(replay.records)
        if isinstance(bound, BoundSplitting):
            return _undo_shears(replay, bound, grads)
        assert isinstance(bound, BoundReversible)
        bound.with_error = False
        pair: Pair = replay.recording.last[1:]
        affine = AffinePart(bound, len(pair))
        known: _Evaluation | None = None
        zero = grads[0]  # the state is the pair's first part: only outputs have gradients of their own
        for n in range(end - 1, 0, -1):
            step = _Step(replay, bound, n, known)
            before = step.back(pair)
            arrived, inside = replay.arrive(n, grads)
            if inside:  # the step's polynomial needs its stages
                grads = replay.pull_back(n, (before[0].to(bound.dtype), *before), grads)
            else:
                pair_grads = list(arrived[1:])
                if arrived[0] is not zero:
                    pair_grads[0] = pair_grads[0] + arrived[0].to(pair_grads[0].dtype)
                grads = (zero, *step.pull_back(affine, before, pair_grads))
            pair, known = before, step.earlier
        if not end:
            return grads
        return replay.pull_back(0, (replay.problem.y.detach(),), grads)


def _undo_shears(replay: Replay, bound: BoundSplitting, grads: State) -> State:
    if replay.recording.draws:
        raise InputError("a symplectic step over random numbers cannot be undone: use gradient='recursive'.")
    y = replay.recording.last[0]
    for n in reversed(range(len(replay.records))):
        record = replay.records[n]
        with torch.no_grad():
            y = bound.inverse(record.times, record.h, y)
        grads = replay.pull_back(n, (y,), grads)
    return grads


class _Step:
    """The n-th step, backwards. `known` is its last evaluation, where the step after it needed that already."""

    def __init__(self, replay: Replay, bound: BoundReversible, n: int, known: _Evaluation | None) -> None:
        self.replay, self.bound, self.n, self.known = replay, bound, n, known
        self.evaluations: dict[int, _Evaluation] = {}
        self.earlier: _Evaluation | None = None

    def back(self, pair: Pair) -> Pair:
        """The pair before the step, from the one after it."""
        with torch.no_grad():
            return self.bound.back(self.replay.records[self.n].h, pair, self._evaluate, self._before)

    def _evaluate(self, i: int, x: Tensor) -> Tensor:
        if self.known is not None and i == self.bound.evaluations - 1:
            self.evaluations[i] = self.known
        else:
            self.evaluations[i] = self._with_graph(self.n, i, x)
        return self.evaluations[i].value.detach()

    def _before(self, x: Tensor) -> Tensor:
        self.earlier = self._with_graph(self.n - 1, self.bound.evaluations - 1, x)
        return self.earlier.value.detach()

    def _with_graph(self, m: int, i: int, x: Tensor) -> _Evaluation:
        record, bound = self.replay.records[m], self.bound
        # counted from the end: the first step may have begun with an evaluation more
        random = record.calls[-bound.calls] if record.calls and i == bound.evaluations - 1 else record.random
        self.replay.redraw(random)
        with torch.enable_grad():
            times = StepTimes(record, [], self.replay.gathered.times_wanted, False)
            point = x.detach().requires_grad_(True)
            return _Evaluation(point, bound.evaluate(i, times.stages, times.h, point), times)

    def pull_back(self, affine: AffinePart, before: Pair, grads: list[Tensor]) -> Pair:
        """Gradients of the pair before the step from those of the pair after it."""
        gathered, n = self.replay.gathered, self.n
        params, h = gathered.params, self.replay.records[n].h
        columns, parts = affine.columns(h), len(before)
        timed = gathered.times_wanted
        arrived = grads  # and then those of the points, from the last to the first
        for i in reversed(range(self.bound.evaluations)):
            arriving = _combined(columns[parts + i], arrived)
            known, reached = self.evaluations[i], None
            if arriving is not None:
                found = gradients([known.value], [known.point, *params, *known.times.leaves], [arriving])
                gathered.add(found[1 : 1 + len(params)])
                if timed:
                    known.times.gather(n, found[1 + len(params) :], self.replay.nodes, gathered)
                reached = found[0]
            arrived.append(torch.zeros_like(known.point) if reached is None else reached)
        if timed:
            values = [self.evaluations[i].value.detach() for i in range(self.bound.evaluations)]
            gathered.add_times(n, None, affine.size_gradient(arrived, [*before, *values]))
        sums = [_combined(column, arrived) for column in columns[:parts]]
        return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(sums, before))


def _combined(column: Column, tensors: list[Tensor]) -> Tensor | None:
    """sum_i w_i x_i; None if there is nothing to sum. May be one of the tensors itself."""
    total = None
    for i, weight in column:
        if total is None:
            total = tensors[i] if weight == 1 else tensors[i] * weight
        else:
            total = torch.add(total, tensors[i], alpha=weight)
    return total
