"""`solve(..., ensemble=True)`: trace, compile, run, and put the answer together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..constants import constant
from ..errors import InputError, Status
from ..events.event import EventRecord
from ..gradients.base import SolveProblem
from ..implicit.nonlinear import share_of_tolerance
from ..implicit.rosenbrock import RosenbrockTableau
from ..implicit.runge_kutta import ImplicitRungeKutta
from ..per_sample import failure_message
from ..solution import Solution
from ..solver import Adaptive, tolerance, with_nonlinear
from ..state import StateLayout
from ..tableau import ButcherTableau
from . import run_cpu
from .fragments import Program, ScalarMethod
from .newton import differentiates, iterates
from .outcome import cause_of, stats_of
from .problem import Buffers, Inputs
from .sensitivity import Directions, Sensitivities
from .trace import Sources, trace

BACKENDS = ("auto", "cpu", "triton")
FIRST_CAPACITY = 16
MOST_SYSTEM = 8  # equations of an implicit method: its linear algebra is written out


def solve_ensemble(problem: SolveProblem, gradient: str, backend: str = "auto") -> Solution:
    """The problem by one compiled program in which every trajectory is a scalar solve of its own.

    Args:
        problem: with per-sample steps; y [batch, *state].
        gradient: "autograd" or "forward": the same, by sensitivities beside the solution.
        backend: "cpu", "triton", or "auto" by the state's device.

    Raises:
        InputError: for what an ensemble cannot do, and for fields that cannot be written as scalars.
    """
    solver, flat, y = problem.solver, problem.flat, problem.y
    assert isinstance(solver, Adaptive)
    method = _checked(problem, with_nonlinear(solver), gradient)
    ts = problem.ts.detach().contiguous()
    start = y.detach()
    functions = [_on_user_states(flat, event.function) for event in problem.events]
    field = flat.func if flat.layout.spec is None else flat.evaluate
    traced = trace(field, functions, start, ts[..., 0].expand(len(y)), flat.args)
    if not isinstance(method, ButcherTableau) and traced.size > MOST_SYSTEM:
        raise InputError(
            f"ensemble=True writes out the linear systems of {method.name}: at most {MOST_SYSTEM} equations, got "
            f"{traced.size}; use per_sample=True."
        )
    wrt = Directions.of(y, traced.sources)
    if wrt.seeds and problem.events:
        raise InputError(
            "ensemble=True has no gradients of solves with events: use per_sample=True, or torch.no_grad()."
        )
    if wrt.seeds and not differentiates(method):
        raise InputError(
            f"ensemble=True has no such gradient of {method.name}: take rodas5p or kvaerno5 with exact first derivatives, "
            "or use per_sample=True."
        )
    inputs = inputs_of(solver, flat.layout, traced.sources, ts, start, problem.direction)
    rules = [[event.direction, int(event.terminal), event.limit] for event in problem.events]
    inputs.rules = torch.tensor(rules, dtype=torch.int64, device=y.device).reshape(-1, 3)
    program = Program(
        method, traced.field, traced.events, solver.controller, traced.size, inputs.each.shape[1],
        sum(x.numel() for x in traced.sources.common), wrt.seeds, ts.shape[-1] > 2 or bool(problem.events),
    )  # fmt: skip
    buffers, ys = solve_program(_backend(backend, y), program, inputs, wrt)
    return _solution(problem, program, buffers, ts, ys, traced.batched)


def solve_program(
    run: Callable[[Program, Inputs, Buffers], None], program: Program, inputs: Inputs, wrt: Directions
) -> tuple[Buffers, Tensor]:
    """What the program filled in, and its states [T, batch, D], differentiable in those directions."""
    if not wrt.seeds:
        buffers = _run(run, program, inputs)
        return buffers, buffers.ys
    kept: list[Buffers] = []

    def forward() -> tuple[Tensor, Tensor]:
        kept.append(_run(run, program, inputs))
        return kept[0].ys, kept[0].zs

    ys = Sensitivities.apply(forward, wrt.kinds, *wrt.tensors)
    return kept[0], ys


def _run(run: Callable[[Program, Inputs, Buffers], None], program: Program, inputs: Inputs) -> Buffers:
    capacity = FIRST_CAPACITY if program.events else 0
    while True:
        buffers = Buffers.empty(inputs, len(program.seeds), capacity)
        run(program, inputs, buffers)
        most = int(buffers.event_counts.max()) if buffers.event_counts.numel() else 0
        if most <= capacity:
            return buffers
        capacity = most  # the same solve again, with room for what it found


def _solution(
    problem: SolveProblem, program: Program, buffers: Buffers, ts: Tensor, states: Tensor, batched: bool
) -> Solution:
    y = problem.y
    accepted, rejected, status = (x.to(torch.int64) for x in (buffers.accepted, buffers.rejected, buffers.status))
    stats = stats_of(problem.solver, program, buffers)
    stats.accepted, stats.rejected = accepted, rejected
    ys = states.reshape(len(states), *y.shape)
    cause, _ = cause_of(problem, program, buffers) if batched else ("", None)
    solution = Solution(problem.ts, ys, stats, status, failure_message(status, buffers.end, cause))
    if problem.save_at == "end" and problem.events:
        ended = status == int(Status.EVENT)
        solution.ts = torch.where(ended, buffers.end, ts[..., -1])[:, None]
        solution.ys = torch.where(ended[:, None], buffers.last, buffers.ys[-1]).reshape(1, *y.shape)
    solution.events = tuple(_record(problem, buffers, e) for e in range(len(problem.events)))
    return solution


def _record(problem: SolveProblem, buffers: Buffers, e: int) -> EventRecord:
    most = int(buffers.event_counts[e].max()) if len(problem.y) else 0
    states = buffers.event_ys[e, :most].reshape(most, *problem.y.shape)
    layout = problem.flat.layout
    return EventRecord(
        problem.events[e].name, buffers.event_counts[e], buffers.event_ts[e, :most], layout.unflatten(states, (most,))
    )


def inputs_of(
    solver: Adaptive, layout: StateLayout, sources: Sources, ts: Tensor, y: Tensor, direction: float
) -> Inputs:
    """A program's numbers, for starts y [batch, *state] and times ts, [T] or [batch, T]."""
    batch = len(y)

    def real(x: Tensor) -> Tensor:
        return x.detach().to(y.device, y.dtype)

    each = [real(x).reshape(batch, x.shape[1:].numel()) for x in sources.each]
    common = [real(x).reshape(-1) for x in sources.common]
    common.append(_scales(solver, layout, y))
    settings = {
        "direction": direction, "min_step": solver.min_step, "max_step": min(solver.max_step, 1e300),
        "max_steps": float(solver.max_steps), "first_step": float(solver.first_step or 0.0),
        "epsilon": torch.finfo(torch.float64).eps, "precision": torch.finfo(y.dtype).eps, "kappa": _kappa(solver, layout, y),
    }  # fmt: skip
    return Inputs(
        ts, y.reshape(batch, y.shape[1:].numel()).contiguous(),
        torch.cat(each, 1).contiguous() if each else y.new_zeros(batch, 0),
        torch.cat(common) if len(common) > 1 else common[0], settings,
        torch.empty(0, 3, dtype=torch.int64, device=y.device),
    )  # fmt: skip


def _kappa(solver: Adaptive, layout: StateLayout, y: Tensor) -> float:
    method = with_nonlinear(solver)
    if not isinstance(method, ImplicitRungeKutta):
        return 0.0
    given = method.nonlinear.kappa
    return share_of_tolerance(tolerance("rtol", solver.rtol, layout, y), y.dtype) if given is None else given


def _scales(solver: Adaptive, layout: StateLayout, y: Tensor) -> Tensor:
    """rtol [D], then atol [D]."""
    size, given = y.shape[1:].numel(), [tolerance(name, getattr(solver, name), layout, y) for name in ("rtol", "atol")]
    if all(isinstance(x, float) for x in given):
        return constant("scales", tuple(x for x in given for _ in range(size)), y.dtype, y.device)  # type: ignore[misc]
    found = []
    for name, x in zip(("rtol", "atol"), given):
        value = torch.as_tensor(x).to(y.device, y.dtype)
        if value.dim() > y.dim() - 1 and len(value) != 1:
            raise InputError(f"ensemble=True takes one {name} for all trajectories, got shape {tuple(value.shape)}.")
        found.append(value.expand(1, *y.shape[1:]).reshape(-1))
    return torch.cat(found)


def _on_user_states(flat: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda t, y, *args: function(t, flat.layout.unflatten(y), *args)


def _checked(problem: SolveProblem, method: Any, gradient: str) -> ScalarMethod:
    """The method, if the problem is one for ensembles; InputError if not."""
    y, known = (
        problem.y,
        "explicit methods with an error estimate (tsit5, dopri5, ...), rodas5p, kvaerno3 to 5, radauIIA5",
    )
    if not isinstance(method, (ButcherTableau, RosenbrockTableau)) and not iterates(method):
        raise InputError(f"ensemble=True takes {known}, got {getattr(method, 'name', method)!r}: use per_sample=True.")
    if y.dtype not in (torch.float32, torch.float64):
        raise InputError(f"ensemble=True takes float32 and float64 states, got {y.dtype}: use per_sample=True.")
    if gradient not in ("autograd", "forward"):
        raise InputError(
            f"ensemble=True differentiates by forward sensitivities, got gradient={gradient!r}: leave it out."
        )
    if problem.dense or problem.save_at == "steps":
        raise InputError("ensemble=True keeps no steps: give times in ts, or use per_sample=True.")
    if problem.flat.mass is not None:
        raise InputError("ensemble=True takes no mass matrix: use per_sample=True.")
    if any(event.on_event is not None for event in problem.events):
        raise InputError("ensemble=True records events and stops at them; for on_event use per_sample=True.")
    if problem.ts.requires_grad and torch.is_grad_enabled():
        raise InputError("ensemble=True differentiates y0 and args, not the times: use per_sample=True.")
    return method


def _backend(name: str, y: Tensor) -> Callable[[Program, Inputs, Buffers], None]:
    if name not in BACKENDS:
        raise InputError(f"ensemble= takes True, False, or one of {', '.join(BACKENDS)}, got {name!r}.")
    if name == "auto":
        name = "cpu" if y.device.type == "cpu" else "triton"
    if name == "cpu":
        if y.device.type != "cpu":
            raise InputError(f"ensemble='cpu' needs y0 on the CPU, got {y.device}: use ensemble=True.")
        return run_cpu.run
    from . import run_triton

    return run_triton.run
