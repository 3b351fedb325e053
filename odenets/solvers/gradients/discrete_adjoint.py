"""The adjoint of a Runge-Kutta step, stage by stage: exact, with the graph of one stage at a time.

For stages k_i = f(t_i, Y_i), Y_i = y + h sum_j a_ij k_j, with J_i the Jacobian of f at Y_i and lambda the gradient of
the new state,

    u_i = h b_i lambda + h sum_j a_ji g_j,   g_i = J_i^T u_i   (last stage first),
    gradient of y: lambda + sum_i g_i,   of theta: sum_i (df_i/dtheta)^T u_i,
    of h: sum_i b_i lambda^T k_i + sum_ij a_ij g_i^T k_j.

It is the step's transpose written with weights u_i, so that nothing is divided by b_i, as it is in the usual
partitioned form: Sanz-Serna, "Symplectic Runge-Kutta schemes for adjoint equations" (SIAM Review 58, 2016),
section 3; Matsubara, Miyatake, Yaguchi, "Symplectic adjoint method" (NeurIPS 2021, arXiv:2102.09750).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import InputError
from ..one_step import ExplicitRungeKutta
from ..step import add_scaled, weighted_sum
from ..tableau import ButcherTableau
from .base import SolveProblem
from .checkpoint import EveryState
from .random_state import RandomState
from .recomputed import Recomputed, Sweep
from .record import State
from .recursive import SomeStates, check_slots
from .replay import Replay, gradients


@dataclass(frozen=True)
class DiscreteAdjoint(Recomputed):
    """Exact for explicit Runge-Kutta methods. Memory N D + s D + a: with large fields the smallest of the exact ones.

    Args:
        slots: keep only so many states and run steps again for the others, as `Recursive` does; None keeps all.
    """

    name: ClassVar[str] = "discrete_adjoint"
    slots: int | None = None

    def __post_init__(self) -> None:
        check_slots(self.slots)

    def check(self, problem: SolveProblem) -> None:
        super().check(problem)
        method = problem.solver.method
        bound = problem.start(problem.ts.reshape(-1)[0].detach(), problem.y.detach()).bound  # type: ignore[attr-defined]
        if not isinstance(bound, ExplicitRungeKutta):
            raise InputError(
                f"gradient='discrete_adjoint' needs an explicit Runge-Kutta method, got {method!r}: use "
                "gradient='checkpoint' or 'recursive'."
            )

    def sweep(self) -> Sweep:
        return EveryState(pull_back_by_stages) if self.slots is None else SomeStates(self.slots, pull_back_by_stages)


def pull_back_by_stages(replay: Replay, n: int, state: State, grads: State) -> State:
    """As `Replay.pull_back`, one stage's graph at a time; steps with outputs inside take the whole graph."""
    arrived, inside = replay.arrive(n, grads)
    if inside:
        return replay.pull_back(n, state, grads)
    bound = replay.recording.bound
    assert isinstance(bound, ExplicitRungeKutta)
    tableau, field, record, gathered = bound.tableau, replay.recording.field, replay.records[n], replay.gathered
    (y,), (last,) = state, arrived
    h, times, params, timed = record.h, record.times.unbind(), gathered.params, gathered.times_wanted
    points, slopes, random = _stages(replay, n, y, times, tableau)
    matrix = tableau.matrix
    back: list[Tensor | None] = [None] * tableau.stages  # g_i
    time_grads: list[Tensor | None] = [None] * tableau.stages
    for i in reversed(range(_needed(tableau))):
        weight = _combined([h * tableau.b[i], *(h * matrix[i + 1 :, i])], [last, *back[i + 1 :]])
        if weight is None:  # nothing depends on this stage
            continue
        replay.redraw(random[i])
        with torch.enable_grad():
            point = points[i].detach().requires_grad_(True)
            time = times[i].detach().requires_grad_(True) if timed else times[i]
            k = field(time, point)
            leaves = (point, *params, *((time,) if timed else ()))
            found = gradients([k], leaves, [weight])
        gathered.add(found[1 : 1 + len(params)])
        back[i] = found[0]
        if timed:
            slopes[i], time_grads[i] = k.detach(), found[-1]
    if timed:
        size = last.real.new_zeros((), dtype=torch.float64)
        for i, g in enumerate(back):
            size = size + tableau.b[i] * _dot(last, slopes[i])
            size = size + (0.0 if g is None else _dot(g, _combined(matrix[i], slopes)))
        reached = [(c, g.double()) for c, g in zip(tableau.c, time_grads) if g is not None]
        start = sum((g for _, g in reached), torch.zeros_like(size))
        gathered.add_times(n, start, size + sum(c * g for c, g in reached))
    total = _combined([1.0] * (1 + tableau.stages), [last, *back])
    assert total is not None
    return (total,)


def _stages(
    replay: Replay, n: int, y: Tensor, times: Sequence[Tensor], tableau: ButcherTableau
) -> tuple[list[Tensor], list[Tensor | None], list[RandomState]]:
    """Y_i, k_i (but for the last that is needed, and later ones) and the random states before them, without a graph."""
    field, record, needed = replay.recording.field, replay.records[n], _needed(tableau)
    slopes: list[Tensor | None] = [None] * tableau.stages
    points, random = [y], [record.random_first or record.random]
    with torch.no_grad():
        replay.redraw(random[0])
        for i in range(needed - 1):
            slopes[i] = field(times[i], points[i])
            if i == 0 and record.random_first is not None:
                replay.redraw(record.random)
            points.append(add_scaled(y, record.h, _combined(tableau.a[i + 1], slopes)))
            random.append(replay.now())
    return points, slopes, random


def _combined(weights: Sequence[float], tensors: Sequence[Tensor | None]) -> Tensor | None:
    """`weighted_sum` of those that are there."""
    pairs = [(float(w), x) for w, x in zip(weights, tensors) if x is not None]
    return weighted_sum([w for w, _ in pairs], [x for _, x in pairs])


@functools.lru_cache
def _needed(tableau: ButcherTableau) -> int:
    """Number of stages up to the last on which the new state depends."""
    return max(i for i, b in enumerate(tableau.b) if b) + 1


def _dot(g: Tensor, x: Tensor | None) -> Tensor | float:
    return 0.0 if x is None else torch.linalg.vecdot(g.reshape(-1), x.reshape(-1)).real.double()
