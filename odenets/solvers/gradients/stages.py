"""A recorded Runge-Kutta step taken apart into its stages, for the methods that differentiate them one by one.

k_i = f(t_i, Y_i), Y_i = y + h sum_j a_ij k_j. Explicit stages follow from those before them; implicit ones come in blocks
that were solved together, whose derivatives take one linear solve with I - h A (x) J at the solved stages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..implicit.gradient import linear_solver
from ..implicit.runge_kutta import BoundImplicit
from ..implicit.stages import StageEquations
from ..one_step import ExplicitRungeKutta
from ..step import add_scaled, weighted_sum
from ..tableau import ButcherTableau
from .base import SolveProblem
from .random_state import RandomState
from .record import State
from .replay import Replay


@dataclass
class Stages:
    """One step.

    Attributes:
        tableau: with f at the start as its first stage.
        matrix: a_ij [s, s].
        blocks: the implicit stages that are solved together, ascending; all other stages are explicit.
        times: t_i; h: signed size.
        points, slopes: Y_i and k_i [*state], without a graph; of an explicit method only those asked for.
        random: states of the generators before every explicit stage; empty for implicit methods.
        carried: whether the first stage is the last one of the step before.
        after: the state after the step, where it had to be taken to find the stages.
    """

    tableau: ButcherTableau
    matrix: np.ndarray
    blocks: list[slice]
    times: Sequence[Tensor]
    h: float
    y: Tensor
    points: list[Tensor]
    slopes: list[Tensor | None]
    random: list[RandomState]
    carried: bool
    bound: ExplicitRungeKutta | BoundImplicit
    after: State | None = None

    def groups(self) -> list[slice]:
        """All stages in order: every explicit one alone, the implicit ones in their blocks."""
        first = self.blocks[0].start if self.blocks else self.tableau.stages
        return [*(slice(i, i + 1) for i in range(first)), *self.blocks]

    def inverse(self, group: slice, transposed: bool) -> Callable[[Tensor], Tensor]:
        """r [m, *state] -> (I - h A (x) J)^{-1} r, or with the transposed matrix, over the m stages of a block."""
        assert isinstance(self.bound, BoundImplicit)
        k = torch.stack([self.slopes[i] for i in range(group.start, group.stop)])  # type: ignore[misc]
        base = add_scaled(self.y, self.h, combined(self.matrix[group.start, : group.start], self.slopes))
        block = self.matrix[group, group]
        equations = StageEquations(self.bound.field, self.times[group], self.h, base, block)
        return linear_solver(equations, k, self.bound.solver, transposed)


def require_stages(problem: SolveProblem, name: str) -> None:
    """Raise InputError unless the method is a Runge-Kutta method whose stages can be differentiated one by one."""
    bound = problem.start(problem.ts.reshape(-1)[0].detach(), problem.y.detach()).bound  # type: ignore[attr-defined]
    method = problem.solver.method
    if not isinstance(bound, (ExplicitRungeKutta, BoundImplicit)):
        raise InputError(
            f"gradient={name!r} needs a Runge-Kutta method, explicit or implicit, got {method!r}: use "
            "gradient='checkpoint' or 'recursive'."
        )
    if isinstance(bound, BoundImplicit) and problem.y.is_complex():
        raise InputError(f"gradient={name!r} needs real states with {method!r}: use gradient='checkpoint'.")


def has_stages(problem: SolveProblem) -> bool:
    """Whether `require_stages` lets the problem pass."""
    try:
        require_stages(problem, "")
    except InputError:
        return False
    return True


def stages_of(replay: Replay, n: int, state: State, needed: int | None = None) -> Stages:
    """The n-th step from `state`; of an explicit method only the first `needed` points and the slopes before the last."""
    bound, record, y = replay.recording.bound, replay.records[n], state[0].detach()
    times, h = record.times, record.h
    if isinstance(bound, ExplicitRungeKutta):
        tableau = bound.tableau
        points, slopes, random = _explicit(replay, n, y, times, tableau, needed or tableau.stages)
        return Stages(tableau, tableau.matrix, [], times, h, y, points, slopes, random, False, bound)
    assert isinstance(bound, BoundImplicit)
    tableau = bound.method.extended
    after, trial = replay.run(n, (y, *(x.detach() for x in state[1:])))
    matrix = tableau.matrix
    points = [add_scaled(y, h, combined(row, trial.stages)) for row in matrix]
    stages: list[Tensor | None] = [*trial.stages]
    return Stages(tableau, matrix, bound.method.blocks, times, h, y, points, stages, [], record.carried, bound, after)


def _explicit(
    replay: Replay, n: int, y: Tensor, times: Sequence[Tensor], tableau: ButcherTableau, needed: int
) -> tuple[list[Tensor], list[Tensor | None], list[RandomState]]:
    """Y_i, k_i (but for the last that is needed, and later ones) and the random states before them."""
    field, record = replay.recording.field, replay.records[n]
    slopes: list[Tensor | None] = [None] * tableau.stages
    points, random = [y], [record.random_first or record.random]
    with torch.no_grad():
        replay.redraw(random[0])
        for i in range(needed - 1):
            slopes[i] = field(times[i], points[i])
            if i == 0 and record.random_first is not None:
                replay.redraw(record.random)
            points.append(add_scaled(y, record.h, combined(tableau.a[i + 1], slopes)))
            random.append(replay.now())
    return points, slopes, random


def combined(weights: Sequence[float] | np.ndarray, tensors: Sequence[Tensor | None]) -> Tensor | None:
    """`weighted_sum` of those that are there."""
    pairs = [(float(w), x) for w, x in zip(weights, tensors) if x is not None]
    return weighted_sum([w for w, _ in pairs], [x for _, x in pairs])
