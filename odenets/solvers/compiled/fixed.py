"""Fixed-step solves: one loop where nothing is differentiated, else compiled in chunks of a few unrolled steps.

The Python loop around the chunks costs microseconds per chunk. Autograd goes through the compiled chunks; the gradients
that take steps again are in `recorded`, but for gradient="checkpoint" on devices where a program does not loop by itself:
there the state before each chunk is kept and the chunk is run again.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..errors import Status
from ..field import FlatField
from ..fixed import FixedIntegrator
from ..gradients.base import Gradient, SolveProblem
from ..solution import Solution, Stats
from ..solver import FixedStep, method_of
from ..state import StateLayout
from ..step import runge_kutta_step, stage_times
from ..tableau import ButcherTableau
from . import adjoint, capture, recorded, reversible
from .adaptive import LOOPS_ON
from .along_grid import solve_along
from .reversible import is_reversible

EVALUATIONS = 16  # of the field unrolled into one program: its compilation takes longer than in proportion


def chunk_of(tableau: ButcherTableau) -> int:
    """Steps in one program."""
    return max(1, EVALUATIONS // tableau.stages)


def unsupported(problem: SolveProblem) -> str:
    """What of a fixed-step problem a compiled solve cannot do; empty if it can."""
    solver = problem.solver
    assert isinstance(solver, FixedStep)
    method = method_of(solver.method)
    if not isinstance(method, ButcherTableau) and not (is_reversible(method) and problem.y.device.type in LOOPS_ON):
        return f"method {getattr(solver.method, 'name', solver.method)!r}, only explicit Runge-Kutta and reversible methods"
    if solver.perturb:
        return "perturb=True"
    return "" if places_of(problem) is not None else "output times between the grid's points"


def solve_compiled(problem: SolveProblem, gradient: Gradient, differentiated: bool) -> Solution:
    """The solution with flat states, and with its gradient where it is to be differentiated.

    Raises:
        CannotCapture: if the field cannot be compiled.
    """
    found = places_of(problem)
    assert found is not None
    grid, places = found
    if is_reversible(method_of(problem.solver.method)):  # type: ignore[union-attr]
        return reversible.solve_fixed(problem, gradient, grid, places, differentiated)
    if differentiated and gradient.name != "autograd" and problem.y.device.type in LOOPS_ON:
        solver = adjoint if gradient.name == "adjoint" else recorded
        return solver.solve_fixed(problem, gradient, grid, places)
    if not differentiated and problem.y.device.type in LOOPS_ON:
        kind = ("along", capture.kind_of(problem.flat.func))
        try:
            if not capture.refused(kind):
                return solve_along(problem, grid, places)
        except capture.CannotCapture:  # what draws random numbers, say, may still be unrolled
            capture.refuse(kind)
    tableau: Any = method_of(problem.solver.method)  # type: ignore[union-attr]
    steps = len(grid) - 1
    every = any(place % chunk_of(tableau) for place in places if place < steps)
    states: dict[int, Tensor] = {0: problem.y}
    nfe = _through_chunks(problem, gradient, tableau, grid, states, every)
    ys = torch.stack([states[place] for place in places])
    status = torch.where(torch.isfinite(ys[-1].detach()).all(), int(Status.SUCCESS), int(Status.NON_FINITE))
    return Solution(problem.ts, ys, Stats(nfe, steps), status)


def _through_chunks(
    problem: SolveProblem,
    gradient: Gradient,
    tableau: ButcherTableau,
    grid: Tensor,
    states: dict[int, Tensor],
    every: bool,
) -> int:
    """How often the field was called. The states along the grid [N + 1] go into `states` by their place: all with `every`,
    else one per chunk.
    """
    flat, y = problem.flat, problem.y
    layout = flat.layout if flat.layout.spec is not None else StateLayout(None, (), (), flat.layout.batch_dims)
    steps, size = len(grid) - 1, chunk_of(tableau)
    recompute = gradient.name == "checkpoint" and torch.is_grad_enabled()
    for start in range(0, steps, size):
        length = min(size, steps - start)
        key = ("fixed", capture.kind_of(flat.func), tableau, layout, length, every, y.device.type, y.dim())

        def build(length: int = length) -> types.FunctionType:
            return _program(tableau, layout, length, every)

        def chunk(y: Tensor, times: Tensor, build: Any = build, key: Any = key) -> tuple[Tensor, ...]:
            return capture.call(build, key, flat.func, flat.args, y, times, loops=False)  # type: ignore[no-any-return]

        part = grid[start : start + length + 1]
        reached = checkpoint(chunk, y, part, use_reentrant=False) if recompute else chunk(y, part)
        y = reached[-1]
        states.update(zip(range(start + 1, start + length + 1), reached) if every else [(start + length, y)])
    return steps * (tableau.stages - tableau.fsal) + tableau.fsal * -(-steps // size)


def places_of(problem: SolveProblem) -> tuple[Tensor, list[int]] | None:
    """The grid [N + 1] and where the output times lie on it; None if one of them does not, or two on the same point."""
    integrator = problem.start(problem.ts[0].detach(), problem.y.detach())
    assert isinstance(integrator, FixedIntegrator)
    integrator.aim(problem.ts.detach()[1:], float(problem.ts[-1]))
    grid, ts = integrator.grid, problem.ts.detach().to(integrator.grid)
    nearest = (torch.searchsorted(grid * problem.direction, ts * problem.direction)).clamp(max=len(grid) - 1)
    before = (nearest - 1).clamp(min=0)
    nearest = torch.where((grid[before] - ts).abs() < (grid[nearest] - ts).abs(), before, nearest)
    rounding = 1e-13 * (grid[-1] - grid[0]).abs()
    on_grid, places = bool(((grid[nearest] - ts).abs() <= rounding).all()), nearest.tolist()
    return (grid, places) if on_grid and len(set(places)) == len(places) else None


def _program(tableau: ButcherTableau, layout: StateLayout, length: int, every: bool) -> types.FunctionType:
    settings = (tableau, layout, length, every)

    def chunk(func: Callable[..., Any], args: tuple[Any, ...], y: Tensor, grid: Tensor) -> tuple[Tensor, ...]:
        tableau, layout, length, every = settings
        field = FlatField(func, layout, args).evaluate
        nodes = torch.tensor(tableau.c, dtype=grid.dtype, device=grid.device)
        time_dtype = torch.empty((), dtype=y.dtype).abs().dtype
        states, f = [], None
        for i in range(length):
            h = grid[i + 1] - grid[i]
            times = stage_times(nodes, grid[i], h, time_dtype)
            f = field(times[0], y) if f is None else f
            trial = runge_kutta_step(field, tableau, times, h, y, f, with_error=False)
            y, f = trial.y1, trial.stages[-1] if tableau.fsal else None
            states.append(y)
        return tuple(states) if every else (y,)

    return chunk  # type: ignore[return-value]
