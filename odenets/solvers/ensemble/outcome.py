"""What a program's solves cost, and why they failed."""

from __future__ import annotations

import torch

from ..compiled.methods import unsolved
from ..errors import Status
from ..gradients.base import SolveProblem
from ..masked import Clock
from ..solution import Stats
from ..solver import Adaptive, Solver
from .fragments import Program
from .problem import Buffers


def stats_of(solver: Solver, program: Program, buffers: Buffers) -> Stats:
    """What the trajectory that took most of them cost, in evaluations, and in updates of an iteration."""
    batch = len(buffers.accepted)
    trials = int((buffers.accepted + buffers.rejected).max()) if batch else 0
    stats = Stats(1 + (isinstance(solver, Adaptive) and solver.first_step is None) + trials * program.evaluations)
    if program.newton is not None:
        stats.iterations = int(buffers.updates.max()) if batch else 0
        stats.nfe += stats.iterations * program.newton.evaluations
        stats.jacobians = stats.factorisations = trials
    return stats


def cause_of(problem: SolveProblem, program: Program, buffers: Buffers) -> tuple[str, float | None]:
    """Why an iteration's equations were not solved, from another step of the eager method, and with one clock the size of
    that step; ("", None) where that is not what failed.
    """
    status = buffers.status.to(torch.int64)
    if not program.order or not bool((status == int(Status.NONLINEAR)).any()):
        return "", None
    solver, t, y = problem.solver, buffers.end, buffers.last.reshape(problem.y.shape)
    assert isinstance(solver, Adaptive)
    if not problem.per_sample:
        t, status = t[0], status[0]
    # they failed down to the smallest step
    span = torch.maximum(t.abs(), problem.ts.detach()[..., -1].to(t).abs())
    size = (span * torch.finfo(t.dtype).eps).clamp(min=solver.min_step * solver.controller.factor_min)
    with torch.no_grad():
        f = problem.flat.evaluate(t.to(y.dtype), y)
    cause = unsolved(problem, Clock(t, size, y, f, size, size, status, t, t))
    return cause, None if size.dim() else float(size) / solver.controller.factor_min
