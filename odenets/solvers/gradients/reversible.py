"""Step back from the end: a reversible method's own states, reconstructed, in memory that does not depend on N.

Exact up to the rounding of the reconstruction, which each method's module describes. A step back evaluates the field
where the step forward did, so that one pass over the field serves both the reconstruction and the gradient: about one
forward solve more than autograd. The step is affine but for those evaluations; its affine part is differentiated by
autograd with the values of the evaluations as leaves, last evaluation first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import InputError
from ..reversible import BoundReversible, Pair, over_pair
from .base import SolveProblem
from .recomputed import Recomputed, Sweep
from .record import State
from .replay import Replay, StepTimes, gradients


@dataclass(frozen=True)
class Reversible(Recomputed):
    """For reversible methods: reversible_heun, alf, Runge-Kutta methods coupled by `odenets.solvers.Reversible`."""

    name: ClassVar[str] = "reversible"

    def check(self, problem: SolveProblem) -> None:
        super().check(problem)
        bound = problem.start(problem.ts.reshape(-1)[0].detach(), problem.y.detach()).bound  # type: ignore[attr-defined]
        if not isinstance(bound, BoundReversible):
            raise InputError(
                f"gradient='reversible' needs a method that can be stepped back, got {problem.solver.method!r}: use "
                "reversible_heun, alf or Reversible(base), or gradient='recursive'."
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
        assert isinstance(bound, BoundReversible)
        pair: Pair = replay.recording.last[1:]
        known: _Evaluation | None = None
        for n in range(end - 1, 0, -1):
            step = _Step(replay, bound, n, known)
            before = step.back(pair)
            arrived, inside = replay.arrive(n, grads)
            if inside:  # the step's polynomial needs its stages
                grads = replay.pull_back(n, (before[0].to(bound.dtype), *before), grads)
            else:
                grads = step.pull_back(before, arrived)
            pair, known = before, step.earlier
        if not end:
            return grads
        return replay.pull_back(0, (replay.problem.y.detach(),), grads)


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
        random.restore()
        with torch.enable_grad():
            times = StepTimes(record, [], self.replay.gathered.times_wanted, False)
            point = x.detach().requires_grad_(True)
            bound.with_error = False
            return _Evaluation(point, bound.evaluate(i, times.stages, times.h, point), times)

    def pull_back(self, before: Pair, grads: State) -> State:
        """Gradients of (state, *pair) before the step from those after it."""
        replay, n, last = self.replay, self.n, self.bound.evaluations
        params, s = replay.gathered.params, len(before)
        points: list[Tensor] = []
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_(True) for x in before]
            values = [self.evaluations[i].value.detach().requires_grad_(True) for i in range(last)]
            times = StepTimes(replay.records[n], [], replay.gathered.times_wanted, False)

            def given(i: int, x: Tensor) -> Tensor:
                points.append(x)
                return values[i]

            after = self.bound.forth(over_pair(times.h, before), tuple(leaves), given)
        inputs = [*leaves, *values, *times.leaves]
        # the state is the pair's first part
        after_grads = [grads[1] + grads[0].to(grads[1].dtype), *grads[2:]]
        sums = list(gradients(after, inputs, after_grads, retain_graph=True))
        for i in reversed(range(last)):
            arriving = sums[s + i]
            if arriving is None:
                continue
            known = self.evaluations[i]
            found = gradients([known.value], [known.point, *params, *known.times.leaves], [arriving])
            replay.gathered.add(found[1 : 1 + len(params)])
            known.times.gather(n, found[1 + len(params) :], replay.nodes, replay.gathered)
            if found[0] is not None:
                through = gradients([points[i]], inputs, [found[0]], retain_graph=True)
                sums = [b if a is None else a if b is None else a + b for a, b in zip(sums, through)]
        times.gather(n, sums[s + last :], replay.nodes, replay.gathered)
        pair_grads = [torch.zeros_like(x) if g is None else g for g, x in zip(sums[:s], before)]
        return (torch.zeros_like(grads[0]), *pair_grads)
