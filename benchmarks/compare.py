"""One comparison: the correctness gate, then operations, synchronisations and times of what passed it."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import torch
from contenders import Contender
from measure import OpCounter, interleaved
from problems import Problem
from torch import Tensor, nn

CALLS_PER_STEP = 6  # dopri5 and tsit5 both reuse the last stage of the step before


@dataclasses.dataclass(frozen=True)
class Case:
    """A table of its own: a problem, a method, and forward alone or with one kind of backward."""

    problem: Problem
    method: str
    mode: str
    contenders: tuple[Contender, ...]


@dataclasses.dataclass
class Row:
    """What was measured of one contender; speeds stay None where the gate is red.

    Attributes:
        error: greatest over the outputs of the root mean square of (y - reference) / (1 + |reference|), in tolerances.
        gradient_error: |g - reference| / |reference| over y0 and parameters together, in tolerances.
        steps: trial steps (of the forward solve).
        ops_per_step, views_per_step, syncs_per_step: from two solves of different length, so that what is done once
            cancels; those of a backward are included.
        backward: operations, calls of the field and trial steps of backward.
        milliseconds: of every round.
        faster_than: by peer, its time over this one's, median over the rounds.
    """

    name: str
    library: str
    green: bool
    error: float
    gradient_error: float | None = None
    steps: int | None = None
    ops_per_step: float | None = None
    views_per_step: float | None = None
    syncs_per_step: float | None = None
    backward: dict[str, int] | None = None
    milliseconds: list[float] | None = None
    faster_than: dict[str, float] = dataclasses.field(default_factory=dict)


class CountedField(nn.Module):
    """A field that counts its calls."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.field(t, y)


@dataclasses.dataclass
class Count:
    """Of a forward solve and its backward: views and syncs of both together, operations and steps apart."""

    ops: int
    views: int
    syncs: int
    steps: int
    backward_ops: int = 0
    backward_calls: int = 0
    backward_steps: int = 0


def run_once(case: Case, field: nn.Module, solve: Callable[[Tensor, Tensor], Tensor], ts: Tensor) -> list[Tensor]:
    """The states after the start; with a backward also d(sum of their squares) with respect to y0 and parameters."""
    with torch.set_grad_enabled(case.mode != "forward"):
        y0 = case.problem.y0.detach().requires_grad_(case.mode != "forward")
        ys = solve(y0, ts)
    if case.mode == "forward":
        return [ys]
    return [ys.detach(), *torch.autograd.grad(ys.square().sum(), [y0, *field.parameters()])]


def count(case: Case, contender: Contender, stretch: int) -> Count:
    """Counts one solve over `stretch` times the problem's interval."""
    field = CountedField(case.problem.field)
    solve = contender.prepare(field, case.problem, case.method)
    ts = case.problem.times(stretch)
    wants_gradient = case.mode != "forward"
    y0 = case.problem.y0.detach().requires_grad_(wants_gradient)
    with torch.set_grad_enabled(wants_gradient), OpCounter() as forward:
        ys = solve(y0, ts)
    steps = whole_steps(field.calls - contender.first_calls, contender)
    counted = Count(forward.total, forward.views, forward.syncs, steps)
    if wants_gradient:
        loss = ys.square().sum()
        field.calls = 0
        with OpCounter() as backward:
            torch.autograd.grad(loss, [y0, *field.parameters()])
        counted.views += backward.views
        counted.syncs += backward.syncs
        counted.backward_ops, counted.backward_calls = backward.total, field.calls
        if contender.adjoint:
            calls = field.calls - contender.jump_calls(len(ts) - 1)
            counted.backward_steps = whole_steps(calls, contender)
    return counted


def whole_steps(calls: int, contender: Contender) -> int:
    steps, rest = divmod(calls, CALLS_PER_STEP)
    assert rest == 0, f"{contender.name}: {calls} calls of the field are not a whole number of steps"
    return steps


def fill_counts(row: Row, case: Case, contender: Contender) -> None:
    short, long = count(case, contender, 1), count(case, contender, 2)
    steps = long.steps + long.backward_steps - short.steps - short.backward_steps
    row.steps = short.steps
    row.ops_per_step = (long.ops + long.backward_ops - short.ops - short.backward_ops) / steps
    row.views_per_step = (long.views - short.views) / steps
    row.syncs_per_step = (long.syncs - short.syncs) / steps
    if case.mode != "forward":
        row.backward = {"ops": short.backward_ops, "calls": short.backward_calls, "steps": short.backward_steps}


def check(case: Case, contender: Contender, result: list[Tensor], reference: list[Tensor]) -> Row:
    """The gate: errors against the reference, and whether they are small enough."""
    problem = case.problem
    ys, expected = result[0].double(), reference[0]
    scaled = (ys - expected) / (1 + expected.abs())
    error = float(scaled.square().mean(dim=(1, 2)).sqrt().max()) / problem.tolerance
    row = Row(contender.name, contender.library, error <= problem.allowed, error)
    if case.mode != "forward":
        assert problem.allowed_gradient is not None
        found, wanted = (
            torch.cat([g.double().reshape(-1) for g in gradients[1:]]) for gradients in (result, reference)
        )
        row.gradient_error = float((found - wanted).norm() / wanted.norm()) / problem.tolerance
        row.green = row.green and row.gradient_error <= problem.allowed_gradient
    return row


def reference_of(case: Case) -> list[Tensor]:
    """Like `run_once`, from the problem's own reference in float64."""
    problem = case.problem.double()
    ts = problem.times()
    return run_once(
        dataclasses.replace(case, problem=problem),
        problem.field,
        lambda y0, ts: problem.reference(dataclasses.replace(problem, y0=y0), ts)[1:],
        ts,
    )


def measure(case: Case) -> list[Row]:
    """Gate, then counts and times of what passed it."""
    problem, ts = case.problem, case.problem.times()
    reference = reference_of(case)
    rows: list[Row] = []
    functions: dict[str, Callable[[], Any]] = {}
    for contender in case.contenders:
        solve = contender.prepare(problem.field, problem, case.method)

        def function(solve=solve) -> list[Tensor]:
            return run_once(case, problem.field, solve, ts)

        row = check(case, contender, function(), reference)
        rows.append(row)
        if row.green:
            if contender.eager:
                fill_counts(row, case, contender)
            functions[contender.name] = function
    times = interleaved(functions, problem.repeats)
    for row in rows:
        row.milliseconds = times.get(row.name)
    for peer in rows:
        if peer.library != "odenets" and peer.milliseconds:
            for row in rows:
                if row.library == "odenets" and row.milliseconds:
                    pairs = zip(peer.milliseconds, row.milliseconds)
                    row.faster_than[peer.name] = statistics.median(theirs / ours for theirs, ours in pairs)
    return rows
