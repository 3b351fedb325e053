"""The adjoint of a Runge-Kutta step, stage by stage: exact, with the graph of one stage at a time.

For stages k_i = f(t_i, Y_i), Y_i = y + h sum_j a_ij k_j, with J_i the Jacobian of f at Y_i and lambda the gradient of
the new state,

    w_i = h b_i lambda + h sum_j a_ji g_j over later blocks j,   g_i = J_i^T u_i   (last stage first),
    u_i = w_i for an explicit stage,   (I - h A (x) J)^T u = w over a block of implicit ones,
    gradient of y: lambda + sum_i g_i,   of theta: sum_i (df_i/dtheta)^T u_i,
    of h: sum_i b_i lambda^T k_i + sum_ij a_ij g_i^T k_j.

It is the step's transpose written with weights u_i, so that nothing is divided by b_i, as it is in the usual
partitioned form: Sanz-Serna, "Symplectic Runge-Kutta schemes for adjoint equations" (SIAM Review 58, 2016),
section 3; Matsubara, Miyatake, Yaguchi, "Symplectic adjoint method" (NeurIPS 2021, arXiv:2102.09750). A block of one
stage (diagonally implicit methods) takes a matrix of the state's size, factorised at the solved stage itself.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..tableau import ButcherTableau
from .base import SolveProblem
from .checkpoint import EveryState
from .recomputed import Recomputed, Sweep
from .record import State
from .recursive import SomeStates, check_slots
from .replay import Replay, gradients
from .stages import Stages, combined, require_stages, stages_of


@dataclass(frozen=True)
class DiscreteAdjoint(Recomputed):
    """Exact for Runge-Kutta methods. Memory N D + 2 s D + a: with large fields the smallest of the exact ones. Implicit
    methods add what solving for the stages of one step takes, the matrices of one block included.

    Args:
        slots: keep only so many states and run steps again for the others, as `Recursive` does; None keeps all.
    """

    name: ClassVar[str] = "discrete_adjoint"
    slots: int | None = None

    def __post_init__(self) -> None:
        check_slots(self.slots)

    def check(self, problem: SolveProblem) -> None:
        super().check(problem)
        require_stages(problem, self.name)

    def sweep(self) -> Sweep:
        return EveryState(pull_back_by_stages) if self.slots is None else SomeStates(self.slots, pull_back_by_stages)


def pull_back_by_stages(replay: Replay, n: int, state: State, grads: State) -> State:
    """As `Replay.pull_back`, one stage's graph at a time; steps with outputs inside take the whole graph, and so do
    implicit steps over random numbers.
    """
    arrived, inside = replay.arrive(n, grads)
    tableau = getattr(replay.recording.bound, "tableau", None)  # of explicit methods
    if inside or (tableau is None and replay.recording.draws):
        return replay.pull_back(n, state, grads)
    step = stages_of(replay, n, state, None if tableau is None else _needed(tableau))
    last, later = arrived[0], arrived[1] if len(arrived) > 1 and arrived[1].numel() else None
    gathered, stages = replay.gathered, step.tableau.stages
    back: list[Tensor | None] = [None] * stages  # g_i
    time_grads: list[Tensor | None] = [None] * stages
    carried: Tensor | None = None
    for group in reversed(step.groups()):
        weights = [_arriving(step, i, group.stop, last, back, later) for i in range(group.start, group.stop)]
        if all(w is None for w in weights):  # nothing depends on these stages
            continue
        if group in step.blocks:
            filled = torch.stack([torch.zeros_like(step.y) if w is None else w for w in weights])
            weights = list(step.inverse(group, transposed=True)(filled).unbind())
        elif step.carried:
            carried = weights[0]
            continue
        for i, weight in zip(range(group.start, group.stop), weights):
            if weight is not None:
                back[i], time_grads[i] = _through_stage(replay, step, i, weight)
    if gathered.times_wanted:
        size = last.real.new_zeros((), dtype=torch.float64)
        for b, row, g, k in zip(step.tableau.b, step.matrix, back, step.slopes):
            size = size + b * _dot(last, k)
            size = size + (0.0 if g is None else _dot(g, combined(row, step.slopes)))
        reached = [(c, g.double()) for c, g in zip(step.tableau.c, time_grads) if g is not None]
        start = sum((g for _, g in reached), torch.zeros_like(size))
        gathered.add_times(n, start, size + sum(c * g for c, g in reached))
    total = combined([1.0] * (1 + stages), [last, *back])
    assert total is not None
    memory = [torch.zeros_like(x) for x in state[1:]]
    if carried is not None:
        memory[0] = carried
    return (total, *memory)


def _arriving(
    step: Stages, i: int, stop: int, last: Tensor, back: Sequence[Tensor | None], later: Tensor | None
) -> Tensor | None:
    """What reaches k_i from the new state, from the stages from `stop` on, and from the next step if that starts with
    the last stage.
    """
    h = step.h
    weight = combined([h * step.tableau.b[i], *(h * step.matrix[stop:, i])], [last, *back[stop:]])
    if later is not None and i == step.tableau.stages - 1:
        return later if weight is None else weight + later
    return weight


def _through_stage(replay: Replay, step: Stages, i: int, weight: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """J_i^T u_i, and what reaches t_i; the parameters' share is added to what is gathered."""
    gathered = replay.gathered
    params, timed = gathered.params, gathered.times_wanted
    if step.random:
        replay.redraw(step.random[i])
    with torch.enable_grad():
        point = step.points[i].detach().requires_grad_(True)
        time = step.times[i].detach().requires_grad_(True) if timed else step.times[i]
        k = replay.recording.field(time, point)
        found = gradients([k], (point, *params, *((time,) if timed else ())), [weight])
    gathered.add(found[1 : 1 + len(params)])
    if timed and step.slopes[i] is None:
        step.slopes[i] = k.detach()
    return found[0], found[-1] if timed else None


@functools.lru_cache
def _needed(tableau: ButcherTableau) -> int:
    """Number of stages up to the last on which the new state depends."""
    return max(i for i, b in enumerate(tableau.b) if b) + 1


def _dot(g: Tensor, x: Tensor | None) -> Tensor | float:
    return 0.0 if x is None else torch.linalg.vecdot(g.reshape(-1), x.reshape(-1)).real.double()
