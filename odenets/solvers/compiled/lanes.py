"""Small systems: a compiled solve as one program of scalars, as in an ensemble, whose field is captured once.

Taken where every trajectory has its own clock (`per_sample=True`, or a state that is a single trajectory), so that the
steps are those of the eager solve. There the loop costs nanoseconds a step instead of a call per operation, and
compiling takes about a second; what it cannot take is left to the program of tensors in `loop`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from ..ensemble import run_cpu
from ..ensemble.fragments import Program
from ..ensemble.newton import differentiates, iterates
from ..ensemble.outcome import cause_of, stats_of
from ..ensemble.sensitivity import Directions
from ..ensemble.solve import MOST_SYSTEM, inputs_of, solve_program
from ..ensemble.trace import Sources, trace
from ..errors import InputError, Status
from ..gradients.base import Gradient, SolveProblem
from ..implicit.rosenbrock import RosenbrockTableau
from ..per_sample import failure_message
from ..solution import Solution
from ..solver import WALKERS, Adaptive, with_nonlinear
from ..tableau import ButcherTableau
from . import capture
from .failure import failure_of_one_clock
from .lifted import CapturedField, lifted

LARGEST = 16  # numbers in a trajectory's state
MOST_OPERATIONS = 4000  # on scalars, of a step
MOST_IMPLICIT = 10_000  # of an implicit method, which takes the program of tensors half a minute to compile
MOST_PROGRAMS = 8  # for one kind of field: one that reads ever other numbers is left to where they are variables
EXACT = (
    "autograd",
    "checkpoint",
    "recursive",
    "discrete_adjoint",
    "forward",
)  # of which sensitivities are the gradient
_written: Counter[Hashable] = Counter()
_log = logging.getLogger(__name__)


def takes(problem: SolveProblem, gradient: Gradient) -> bool:
    """Whether a problem is one for scalars, as far as can be seen without its field."""
    solver, y = problem.solver, problem.y
    if not isinstance(solver, Adaptive) or solver.method in WALKERS or y.device.type != "cpu":
        return False
    method = with_nonlinear(solver)
    if isinstance(method, RosenbrockTableau) or iterates(method):
        largest = MOST_SYSTEM
    elif isinstance(method, ButcherTableau):
        largest = LARGEST
    else:
        return False
    size = y[0].numel() if solver.per_sample and len(y) else y.numel()
    plain = solver.norm is None and solver.step_t is None and solver.jump_t is None
    whole = plain and solver.time_dtype == torch.float64 and (solver.per_sample or problem.flat.layout.spec is None)
    asked = problem.events or problem.dense or problem.save_at == "steps" or problem.flat.mass is not None
    fits = 0 < size <= min(largest, LARGEST) and y.dtype in (torch.float32, torch.float64)
    wanted = gradient.name in EXACT and not problem.ts.requires_grad
    return (
        fits and whole and not asked and (wanted or not torch.is_grad_enabled()) and not capture.why_unavailable("cpu")
    )


def solve_in_lanes(problem: SolveProblem) -> Solution | None:
    """The solution with flat states, differentiable; None where the field is not one for scalars.

    Raises:
        CannotCapture: if the field cannot be captured.
    """
    y, ts, flat = problem.y, problem.ts.detach(), problem.flat
    start = y.detach()
    if problem.save_at == "end" and ts.shape[-1] > 2:
        ts = ts[..., :: ts.shape[-1] - 1]
    t0 = ts[..., 0].to(y.dtype)
    if problem.per_sample:
        t0 = t0.expand(len(y))
    captured, tensors = lifted(flat.func, flat.args, flat.layout, t0, start)
    try:
        return _solved(problem, captured, tensors, ts.contiguous(), t0)
    except InputError as error:
        captured.memory["refused"] = str(error)
        _log.info("%s is solved by operations on tensors: %s", type(flat.func).__name__, error)
        return None


def _solved(
    problem: SolveProblem, captured: CapturedField, tensors: list[Tensor], ts: Tensor, t0: Tensor
) -> Solution | None:
    memory, solver, y = captured.memory, problem.solver, problem.y
    assert isinstance(solver, Adaptive)
    method: Any = with_nonlinear(solver)
    if "refused" in memory:
        return None
    starts = y.detach() if problem.per_sample else y.detach()[None]
    if "field" not in memory:
        _trace(captured, tensors, starts, t0, problem.per_sample)
    function, each, common = memory["field"]
    if any(len(tensors[i]) != len(starts) for i in each):
        return None
    sources = Sources([tensors[i] for i in each], [tensors[x] if isinstance(x, int) else x for x in common])
    try:
        wrt = Directions.of(y if problem.per_sample else y[None], sources)
    except InputError:  # too many for sensitivities: autograd goes through the steps
        return None
    if wrt.seeds and not differentiates(method):
        return None
    dense = ts.shape[-1] > 2
    inputs = inputs_of(solver, problem.flat.layout, sources, ts, starts, problem.direction)
    key = (method, solver.controller, wrt.seeds, dense)
    if key not in memory:
        program = memory[key] = Program(
            method, function, [], solver.controller, inputs.y0.shape[1], inputs.each.shape[1],
            sum(x.numel() for x in sources.common), wrt.seeds, dense,
        )  # fmt: skip
        kind = (capture.kind_of(problem.flat.func), y.dtype, *key)
        _written[kind] += 1
        if _written[kind] > MOST_PROGRAMS:
            raise InputError(
                f"{MOST_PROGRAMS} programs were made for fields of its kind: a number that changes is compiled in"
            )
        most = MOST_OPERATIONS if isinstance(method, ButcherTableau) else MOST_IMPLICIT
        if program.operations > most:
            memory[key] = None
            _log.info(
                "a step of %s takes %d operations on scalars, more than %d", method.name, program.operations, most
            )
    program = memory[key]
    if program is None:
        return None
    buffers, ys = solve_program(run_cpu.run, program, inputs, wrt)
    ys = ys.reshape(ts.shape[-1], *y.shape)
    stats = stats_of(solver, program, buffers)
    saved = problem.ts if len(ys) == problem.ts.shape[-1] else ts
    if problem.per_sample:
        status = buffers.status.to(torch.int64)
        message = (
            "" if not status.any() else failure_message(status, buffers.end, cause_of(problem, program, buffers)[0])
        )
        stats.accepted, stats.rejected = buffers.accepted.to(torch.int64), buffers.rejected.to(torch.int64)
        return Solution(saved, ys, stats, status, message)
    values = (buffers.status, buffers.accepted, buffers.rejected)
    code, stats.accepted, stats.rejected = (int(x.item()) for x in values)
    message, trials = "", stats.accepted + stats.rejected
    if code:
        cause, size = cause_of(problem, program, buffers)
        reached = buffers.last.view(y.shape)
        message = failure_of_one_clock(problem, Status(code), float(buffers.end), reached, trials, size, cause)
    return Solution(saved, ys, stats, Status(code), message)


def _trace(captured: CapturedField, tensors: list[Tensor], starts: Tensor, t0: Tensor, per_sample: bool) -> None:
    """The field as scalars, and which of its tensors they come from."""
    if any(not x.is_floating_point() for x in tensors):
        raise InputError("it reads numbers that are no floating-point ones, whose values would be compiled in")
    found = trace(captured, [], starts, t0 if per_sample else t0[None], tuple(tensors), batched=per_sample)
    place = {id(x): i for i, x in enumerate(tensors)}
    common: list[Any] = [place.get(id(x), x) for x in found.sources.common]
    captured.memory["field"] = found.field, [place[id(x)] for x in found.sources.each], common
