"""Fixed-step solves without gradients as one CUDA graph: all steps are launched at once.

The field is captured as in `lifted`, which looks at every call whether what it reads in Python is still the same; the
operations of its graph are those of the eager solve. A graph belongs to the method, the number of steps, the places of the
outputs among them, and to what `cuda_graph` says; the grid is an input.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from ..errors import InputError, Status
from ..gradients.base import SolveProblem
from ..solution import Solution, Stats
from ..solver import FixedStep, method_of
from ..step import runge_kutta_step
from ..tableau import ButcherTableau
from . import capture, cuda_graph
from .differentiable import nodes_of, start_of
from .fixed import places_of
from .lifted import CapturedField, lifted


def unsupported(problem: SolveProblem) -> str:
    """What of a problem a CUDA graph cannot do, as far as can be seen without its field; empty if it can."""
    if not isinstance(problem.solver, FixedStep):
        return f"{type(problem.solver).__name__}, only FixedStep"
    method = problem.solver.method
    if not isinstance(method_of(method), ButcherTableau):
        return f"method {getattr(method, 'name', method)!r}, only explicit Runge-Kutta methods"
    return "" if problem.y.device.type == cuda_graph.DEVICE else f"states on {problem.y.device.type}, only on CUDA"


def solve(problem: SolveProblem) -> Solution:
    """The solution with flat states, without a gradient.

    Raises:
        CannotCapture: if the field or its operations cannot be captured.
        InputError: if a gradient is asked for.
    """
    found = places_of(problem)
    assert found is not None
    grid, places = found
    tableau: Any = method_of(problem.solver.method)  # type: ignore[union-attr]
    flat, steps = problem.flat, len(grid) - 1
    y, t = start_of(problem)
    captured, tensors = lifted(flat.func, flat.args, flat.layout, t, y)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (problem.y, problem.ts, *tensors)):
        raise InputError("compile='cuda_graph' has no gradients: solve under torch.no_grad(), or use another compile=.")
    if "value" not in captured.memory:
        captured.memory["value"] = _value_alone(captured)
    field: CapturedField = captured.memory["value"]
    with torch.no_grad():
        try:
            inputs = [y, grid, nodes_of(tableau, grid), *tensors]
            (ys,) = cuda_graph.replayed((field, tableau, tuple(places)), _steps(field, tableau, places), inputs)
        except RuntimeError as error:
            raise capture.CannotCapture(capture.explanation(error, flat.func)) from error
    status = torch.where(torch.isfinite(ys[-1]).all(), int(Status.SUCCESS), int(Status.NON_FINITE))
    nfe = steps * (tableau.stages - tableau.fsal) + tableau.fsal
    return Solution(problem.ts, ys, Stats(nfe, steps), status)


def _value_alone(captured: CapturedField) -> CapturedField:
    """The same field without the copies by which its graph tells t, y and its value apart."""
    graph = Graph()
    copies: Any = graph.graph_copy(captured.graph.graph, {})
    slope = copies[0]
    graph.output((slope.args[0] if slope.target == "clone" else slope,))
    for node in copies:
        if isinstance(node, Node) and node.target == "clone" and not node.users:
            graph.erase_node(node)
    alone = copy.copy(captured)
    alone.graph = GraphModule(captured.graph, graph)
    return alone


def _steps(field: CapturedField, tableau: ButcherTableau, places: list[int]) -> Callable[..., tuple[Tensor]]:
    """(y, grid [N + 1], nodes [s], what the field reads) -> the states at these places of the grid [T, *state]."""

    def run(y: Tensor, grid: Tensor, nodes: Tensor, *tensors: Tensor) -> tuple[Tensor]:
        time_dtype = torch.empty((), dtype=y.dtype).abs().dtype
        sizes = grid[1:] - grid[:-1]
        times = torch.addcmul(grid[:-1, None], sizes[:, None], nodes).to(time_dtype)

        def slope(t: Tensor, y: Tensor) -> Tensor:
            return field(t, y, *tensors)

        states, f = {0: y}, None
        for n, (h, row) in enumerate(zip(sizes.to(time_dtype).unbind(), times.unbind()), 1):
            stages = row.unbind()
            f = slope(stages[0], y) if f is None else f
            trial = runge_kutta_step(slope, tableau, stages, h, y, f, with_error=False)
            y, f = trial.y1, trial.stages[-1] if tableau.fsal else None
            if n in places:
                states[n] = y
        return (torch.stack([states[place] for place in places]),)

    return run
