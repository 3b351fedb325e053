"""All steps of a fixed grid as one compiled loop."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import Status
from ..gradients.base import SolveProblem
from ..solution import Solution, Stats
from ..solver import method_of
from ..tableau import ButcherTableau
from . import trace
from .differentiable import nodes_of, of_any_length, room_for, start_of
from .steps import Kept, Take


def solve_along(problem: SolveProblem, grid: Tensor, places: list[int]) -> Solution:
    """The solution with flat states at these places on the grid [N + 1], the first of them its start, without gradients.

    Raises:
        CannotCapture: if the field cannot be compiled.
    """
    tableau = method_of(problem.solver.method)  # type: ignore[union-attr]
    assert isinstance(tableau, ButcherTableau)
    y, t = start_of(problem)
    kept = Kept(len(places) > 2, False)
    rows = torch.full((len(grid),), len(places))  # all but those of the output times are written over one another
    rows[places] = torch.arange(len(places))
    found, _ = trace.call(
        Take(tableau, kept), (tableau, kept), problem.flat, t, y, nodes_of(tableau, grid), of_any_length(grid),
        of_any_length(rows.to(grid.device)), room_for(len(places) + 1, y),
    )  # fmt: skip
    ys = torch.cat([found[1][: len(places) - 1], found[0][None]]) if kept.states else torch.stack([y, found[0]])
    status = torch.where(torch.isfinite(ys[-1]).all(), int(Status.SUCCESS), int(Status.NON_FINITE))
    steps = len(grid) - 1
    return Solution(problem.ts, ys, Stats(steps * (tableau.stages - tableau.fsal) + tableau.fsal, steps), status)
