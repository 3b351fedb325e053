"""Compiled solves: `solve(..., compile=...)`.

`capture` compiles and keeps programs, `loop` is the adaptive solve as a program (and `adaptive` its two ends),
`host_loop` that for devices with a queue, `fixed` the fixed-step one, `step` compiles a single step under the eager
loop. `methods` says which adaptive methods there are; `rosenbrock`, `newton` and `linear` are the implicit ones as pure
tensor code. Small systems become programs of scalars in `lanes`, with their field from `lifted`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ..errors import InputError
from ..gradients.base import Gradient, SolveProblem
from ..methods import ONE_STEP
from ..solution import Solution
from ..solver import Adaptive, FixedStep, Solver, method_of
from ..tableau import ButcherTableau
from . import adaptive, adjoint, capture, fixed, fixed_graph, lanes, recorded
from .differentiable import differentiates
from .reversible import is_reversible
from .step import CompiledTableau

GRADIENTS = ("autograd", "checkpoint", "recursive", "adjoint")
MODES = (False, "step", "solve", "auto", "cuda_graph")


def check_mode(compile: Any) -> None:
    if not (compile is False or compile in MODES[1:]):
        raise InputError(f"compile= takes False, 'step', 'solve', 'auto' or 'cuda_graph', got {compile!r}.")


def with_compiled_step(solver: Solver) -> Solver:
    """The solver with its explicit method's steps compiled. Raises InputError for other methods."""
    method = getattr(solver, "method", None)
    known = ONE_STEP.get(method) if isinstance(method, str) else method
    if not isinstance(solver, (Adaptive, FixedStep)) or not isinstance(known, ButcherTableau):
        raise InputError(
            f"compile='step' takes explicit Runge-Kutta methods in Adaptive or FixedStep, got {type(solver).__name__}"
            f"({method!r}): use compile=False."
        )
    return dataclasses.replace(solver, method=CompiledTableau(known))


def solve_compiled(problem: SolveProblem, gradient: Gradient, mode: str) -> Solution | None:
    """The problem solved as a compiled program, or None if it is to be solved eagerly.

    Raises:
        InputError: with mode "solve" or "cuda_graph", for what it cannot do.
    """
    if mode == "cuda_graph":
        return _solve_in_graph(problem)
    name = getattr(problem.solver, "method", None)
    # some fields are captured, but their Jacobians are not
    refusal = (
        capture.kind_of(problem.flat.func),
        type(problem.solver),
        type(ONE_STEP.get(name) if isinstance(name, str) else name),
    )
    small = lanes.takes(problem, gradient) and not capture.refused(refusal)
    try:
        solution = lanes.solve_in_lanes(problem) if small else None
        if solution is not None:
            return solution
        problem_with, differentiated = _unsupported(problem), False
        if not problem_with:
            if capture.refused(refusal):
                return None
            differentiated = differentiates(problem)
            problem_with = _not_differentiable(problem, gradient) if differentiated else ""
        if problem_with:
            if mode == "solve":
                raise InputError(f"compile='solve' does not take {problem_with}: use compile='auto', 'step' or False.")
            return None
        if isinstance(problem.solver, FixedStep):
            return fixed.solve_compiled(problem, gradient, differentiated)
        if differentiated:
            solver = adjoint if gradient.name == "adjoint" else recorded
            return solver.solve_adaptive(problem, gradient)
        return adaptive.solve_compiled(problem)
    except capture.CannotCapture as error:
        capture.warn_once(refusal, f"solved eagerly, as the vector field cannot be compiled. {error}")
        return None


def _solve_in_graph(problem: SolveProblem) -> Solution | None:
    problem_with = fixed_graph.unsupported(problem) or _unsupported(problem)
    if problem_with:
        raise InputError(f"compile='cuda_graph' does not take {problem_with}: use compile='auto', 'step' or False.")
    refusal = ("cuda_graph", capture.kind_of(problem.flat.func))
    if capture.refused(refusal):
        return None
    try:
        return fixed_graph.solve(problem)
    except capture.CannotCapture as error:
        capture.warn_once(refusal, f"solved eagerly, as the solve cannot be recorded. {error}")
        return None


def _unsupported(problem: SolveProblem) -> str:
    missing = capture.why_unavailable(problem.y.device.type)
    if missing:
        return f"this installation ({missing})"
    if problem.events:
        return "events"
    if problem.dense or problem.save_at == "steps":
        return "dense=True or save_at='steps'"
    if problem.flat.mass is not None:
        return "a mass matrix"
    if problem.y.is_complex() or not problem.y.numel():
        return "complex or empty states"
    if isinstance(problem.solver, FixedStep):
        return fixed.unsupported(problem)
    if not isinstance(problem.solver, Adaptive):
        return f"{type(problem.solver).__name__}"
    return adaptive.unsupported(problem)


def _not_differentiable(problem: SolveProblem, gradient: Gradient) -> str:
    """What stands in the way of a compiled gradient; empty if nothing does."""
    if problem.ts.requires_grad:
        return "gradients of the times"
    if isinstance(problem.solver, Adaptive) and not isinstance(method_of(problem.solver.method), ButcherTableau):
        return "gradients of implicit methods"
    if problem.y.device.type not in adaptive.LOOPS_ON and isinstance(problem.solver, Adaptive):
        return f"gradients of adaptive steps {capture.why_no_loops(problem.y.device.type)}"
    known: tuple[str, ...] = GRADIENTS if problem.y.device.type in adaptive.LOOPS_ON else GRADIENTS[:2]
    if isinstance(problem.solver, FixedStep) and is_reversible(method_of(problem.solver.method)):
        known = ("reversible",)
    if gradient.name not in known:
        where = f" {capture.why_no_loops(problem.y.device.type)}".rstrip()
        return f"gradient={gradient.name!r}{where}, only {', '.join(known)}"
    return ""
