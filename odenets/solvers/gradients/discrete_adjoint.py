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
    points, slopes, random = _stages(replay, n, y, tableau)
    h, times = record.h, record.times.unbind()
    back: list[Tensor] = []  # g_s ... g_1
    total = last
    size_grad, time_grads = last.real.new_zeros((), dtype=torch.float64), torch.zeros_like(record.times)
    for i in reversed(range(tableau.stages)):
        column = [row[i] if i < len(row) else 0.0 for row in tableau.a[:i:-1]]
        weight = weighted_sum([tableau.b[i], *column], [last, *back])
        if weight is None:  # nothing depends on this stage
            back.append(torch.zeros_like(y))
            continue
        random[i].restore()
        with torch.enable_grad():
            point = points[i].detach().requires_grad_(True)
            time = times[i].detach().requires_grad_(gathered.times_wanted)
            k = field(time, point)
            leaves = (point, *gathered.params, *((time,) if gathered.times_wanted else ()))
            found = gradients([k], leaves, [weight * h])
        gathered.add(found[1 : 1 + len(gathered.params)])
        g = torch.zeros_like(y) if found[0] is None else found[0]
        back.append(g)
        total = total + g
        if gathered.times_wanted:
            slopes[i] = k.detach()
            if found[-1] is not None:
                time_grads[i] = found[-1]
    if gathered.times_wanted:
        for i, g in enumerate(reversed(back)):
            size_grad = size_grad + _dot(g, weighted_sum(tableau.a[i], slopes)) + tableau.b[i] * _dot(last, slopes[i])
        time_grads = time_grads.double()
        size_grad = size_grad + torch.dot(time_grads, time_grads.new_tensor(tableau.c))
        gathered.add_times(n, time_grads.sum(), size_grad)
    return (total,)


def _stages(
    replay: Replay, n: int, y: Tensor, tableau: ButcherTableau
) -> tuple[list[Tensor], list[Tensor], list[RandomState]]:
    """Y_i, k_i (but for the last of them) and the random states before them, without a graph."""
    field, record = replay.recording.field, replay.records[n]
    times, wanted = record.times.unbind(), _needed(tableau)
    points, slopes, random = [y], [torch.zeros_like(y)] * tableau.stages, [record.random_first or record.random]
    with torch.no_grad():
        random[0].restore()
        slopes[0] = field(times[0], y) if wanted > 1 else slopes[0]
        if record.random_first is not None:
            record.random.restore()
        for i in range(1, tableau.stages):
            points.append(add_scaled(y, record.h, weighted_sum(tableau.a[i], slopes)))
            random.append(field.now())
            if i < wanted - 1:
                slopes[i] = field(times[i], points[i])
    return points, slopes, random


def _needed(tableau: ButcherTableau) -> int:
    """Number of stages up to the last on which the new state depends."""
    return max(i for i, b in enumerate(tableau.b) if b) + 1


def _dot(g: Tensor, x: Tensor | None) -> Tensor | float:
    return 0.0 if x is None else torch.linalg.vecdot(g.reshape(-1), x.reshape(-1)).real.double()
