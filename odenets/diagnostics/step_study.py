"""Is it an ODE? A trained flow evaluated with other steps, schemes and solvers than it was trained with."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from odenets.diagnostics.jacobian import flatten
from odenets.diagnostics.restep import Flow, solved, step_of, with_solver, with_steps
from odenets.diagnostics.result import Result
from odenets.models import FlowODE, FlowStack, NeuralODE
from odenets.solvers import SolveError

Evaluate = Callable[[nn.Module], dict[str, float]]

FACTORS = (2.0, 1.0, 0.5, 0.25)
SCHEMES = ("forward_euler", "backward_euler", "implicit_midpoint", "exponential")
SOLVERS = ("rk4",)
POINTS = 0.01
"""How far a measure that is a fraction (an accuracy, an R^2) may move to be called the same: one point."""
RELATIVE = 0.05
"""How far any other measure may move, relative to its value."""
SAME, OTHER = 0.1, 0.5
"""Outputs that move by less than SAME of the flow's displacement are called the same, by more than OTHER others."""


@dataclass
class StepRow(Result):
    """The flow taken in one other way.

    Attributes:
        kind: "trained", "step", "scheme" or "solver".
        name: of the scheme or solver, "h / 2" and the like for a step.
        h: step size; None where there is none of its own.
        measures: what `evaluate` returns; empty without it.
        distance: |y - y_trained| / |y_trained - x|, how far the output moved relative to what the flow does.
        error: why it could not be evaluated, "" if it could.
    """

    kind: str
    name: str
    h: float | None
    measures: dict[str, float]
    distance: float
    error: str


@dataclass
class StepStudy(Result):
    """What became of a trained flow under other steps (Ott, Katiyar, Hennig, Tiemann 2021, arXiv:2007.15386).

    Attributes:
        rows: the trained flow first, then every other way.
        trained_h: the step it was trained with.
        measure: the measure that the verdict looks at, "" for the outputs alone.
        tolerance: how far that may move (the distance, without a measure).
        critical_step: the largest step at which the measure, there and at every smaller step, agrees with that at the
            smallest; a flow trained above it has learned its discrete map. None: not even the second smallest agrees,
            or nothing was measured.
        verdict: "yes": smaller steps and other solvers give the same; "no": they do not; "unclear".
        reason: in one line.
    """

    rows: list[StepRow]
    trained_h: float | None
    measure: str
    tolerance: float
    critical_step: float | None
    verdict: str
    reason: str


def step_study(
    flow: Flow,
    x: Tensor,
    context: Mapping[str, Tensor] | None = None,
    evaluate: Evaluate | None = None,
    measure: str = "",
    factors: Sequence[float] = FACTORS,
    schemes: Sequence[str] = SCHEMES,
    solvers: Sequence[str] = SOLVERS,
) -> StepStudy:
    """Evaluate a trained flow at other step sizes, by other schemes and by other solvers.

    Args:
        flow: `FlowStack` or `NeuralODE`.
        x, context: an input [B, ...] of the flow, on which the outputs are compared.
        evaluate: measures with this flow in place of the trained one, such as
            `lambda other: evaluate_task()` inside `substituted(model, flow, other)`; None compares outputs only.
        measure: which of them the verdict looks at; needed with evaluate.
        factors: step sizes relative to the trained one (see `with_steps`).
        schemes: for stacks whose blocks have one; the trained one is left out.
        solvers: for stacks of blocks that know their vector field, and for neural ODEs.

    Raises:
        ValueError: a measure that evaluate does not return, or evaluate without a measure.
    """
    if (evaluate is None) != (not measure):
        raise ValueError("evaluate= and measure= go together: say which of the measures the verdict looks at")
    h = step_of(flow)
    run = _Run(flow, x, context, evaluate)
    rows = [run.row("trained", "as trained", h, flow)]
    if rows[0].error:
        raise ValueError(f"the trained flow itself cannot be evaluated: {rows[0].error}")
    if measure and measure not in rows[0].measures:
        raise ValueError(f"measure={measure!r}: expected one of {', '.join(rows[0].measures)}")
    for kind, name, step, make in _ways(flow, h, factors, schemes, solvers):
        rows.append(run.row(kind, name, step, make))
    return _judged(rows, h, measure)


def _ways(
    flow: Flow, h: float | None, factors: Sequence[float], schemes: Sequence[str], solvers: Sequence[str]
) -> Iterator[tuple[str, str, float | None, Callable[[], Any]]]:
    for factor in sorted(factors, reverse=True):
        if factor != 1:
            name = f"{factor:g} h" if factor > 1 else f"h / {1 / factor:g}"
            yield "step", name, None if h is None else h * factor, functools.partial(with_steps, flow, factor)
    if isinstance(flow, FlowStack):
        for scheme in schemes:
            if scheme != _scheme_name(flow):
                yield "scheme", scheme, h, functools.partial(flow.with_scheme, scheme)
    for solver in solvers:
        yield "solver", solver, None, functools.partial(_solved, flow, solver, h)


def _scheme_name(stack: FlowStack) -> str | None:
    block = getattr(stack.block(0), "template", stack.block(0))
    return getattr(getattr(block, "scheme", None), "name", None)


def _solved(flow: Flow, solver: str, h: float | None) -> nn.Module:
    return solved(flow, solver) if isinstance(flow, FlowStack) else with_solver(flow, solver, h)


class _Run:
    """Runs the flow in one way after the other and compares the outputs with the first."""

    def __init__(self, flow: Flow, x: Tensor, context: Mapping[str, Tensor] | None, evaluate: Evaluate | None):
        self.x, self.context, self.evaluate = x, context, evaluate
        self.start = flatten(_start(flow, x)).double()
        self.trained: Tensor | None = None

    @torch.no_grad()
    def row(self, kind: str, name: str, h: float | None, make: Flow | Callable[[], nn.Module]) -> StepRow:
        try:
            flow = make if isinstance(make, nn.Module) else make()
            output = self._output(flow)
            measures = {} if self.evaluate is None else dict(self.evaluate(flow))
        except (ValueError, SolveError) as error:
            return StepRow(kind, name, h, {}, math.nan, " ".join(str(error).split()))
        self.trained = output if self.trained is None else self.trained  # the first row
        distance = float((output - self.trained).norm() / (self.trained - self.start).norm())
        return StepRow(kind, name, h, measures, distance, "")

    def _output(self, flow: nn.Module) -> Tensor:
        y = flow(self.x, context=self.context) if isinstance(flow, FlowStack) else flow(self.x)
        y = y[-1] if isinstance(flow, NeuralODE) and flow.output == "trajectory" else y
        return flatten(y).double()


def _start(flow: Flow, x: Tensor) -> Tensor:
    """What the flow's output would be if it did nothing."""
    with torch.no_grad():
        if isinstance(flow, FlowStack):
            return flow.block(flow.N - 1).readout(flow.block(0).lift(x))
        return flow.block.readout(flow.block.lift(x)) if isinstance(flow, FlowODE) else x


def _judged(rows: list[StepRow], h: float | None, measure: str) -> StepStudy:
    tolerance = _tolerance(measure, rows[0])
    finer = [row for row in rows if row.kind == "solver" or (row.kind == "step" and row.name.startswith("h /"))]
    tried = [row for row in finer if not row.error]
    critical = _critical(rows, measure, tolerance) if measure else None
    verdict, reason = _verdict(rows[0], finer, tried, measure, tolerance)
    return StepStudy(rows, h, measure, tolerance, critical, verdict, reason)


def _tolerance(measure: str, trained: StepRow) -> float:
    if not measure:
        return SAME
    return POINTS if _is_fraction(measure) else RELATIVE * abs(trained.measures[measure])


def _is_fraction(measure: str) -> bool:
    return "accuracy" in measure or measure.endswith("r2")


def _critical(rows: list[StepRow], measure: str, tolerance: float) -> float | None:
    stepped = sorted((r for r in rows if r.kind in ("trained", "step") and r.h and not r.error), key=lambda r: r.h or 0)
    found = None
    for row in stepped[1:]:
        if not abs(row.measures[measure] - stepped[0].measures[measure]) <= tolerance:
            break
        found = row.h
    return found


def _verdict(
    trained: StepRow, finer: list[StepRow], tried: list[StepRow], measure: str, tolerance: float
) -> tuple[str, str]:
    if not tried:
        why = finer[0].error if finer else "no smaller step or other solver was asked for"
        return "unclear", f"nothing finer could be evaluated: {why}"
    worst = max(tried, key=lambda row: _unless_nan(row.distance))
    distance = _unless_nan(worst.distance)
    moved = f"the output moves by {_percent(distance)} the flow's displacement with {worst.name}"
    if measure:
        change = max(tried, key=lambda row: _unless_nan(abs(row.measures[measure] - trained.measures[measure])))
        text = (
            f"{measure.replace('_', ' ')} {_shown(measure, trained.measures[measure])} as trained, "
            f"{_shown(measure, change.measures[measure])} with {change.name}"
        )
        if _unless_nan(abs(change.measures[measure] - trained.measures[measure])) > tolerance:
            return "no", f"{text}; {moved}"
        if distance > SAME:
            return "unclear", f"{text}, but {moved}"
        return "yes", f"{text}; {moved}"
    if distance > OTHER:
        return "no", moved
    return ("yes" if distance <= SAME else "unclear"), moved


def _percent(share: float) -> str:
    """Two digits; factors from ten on, where percents say little."""
    if not math.isfinite(share):
        return "an infinite multiple of"
    if share >= 10:
        return f"{share:,.0f} times" if share < 1e6 else f"{share:.1e} times"
    return f"{100 * share:.0f} % of" if share >= 0.1 else f"{100 * share:.2g} % of"


def _unless_nan(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _shown(measure: str, value: float) -> str:
    return f"{100 * value:.1f} %" if "accuracy" in measure else f"{value:.4g}"
