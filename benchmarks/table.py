"""The comparison as text, at most 100 columns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from compare import CALLS_PER_STEP, Case, Row

MODES = {
    "forward": "forward under no_grad",
    "autograd": "forward + backward, autograd through the steps",
    "adjoint": "forward + backward, adjoint",
}
_TOP = ("", "error", "grad.", "steps", "ops/", "views/", "syncs/", "ms", "quart.", "faster", "than")
_BELOW = ("", "/ tol", "/ tol", "", "step", "step", "step", "median", "range", "t.diffeq", "torchode")
_WIDTHS = (26, 6, 6, 6, 7, 7, 7, 9, 7, 9, 9)


def preamble(about: dict[str, Any]) -> str:
    machine, versions = about["machine"], about["versions"]
    changed = " with uncommitted changes" if about["uncommitted_changes"] else ""
    return (
        f"{about['command']}\n"
        f"{about['date']}, commit {about['commit']}{changed}\n"
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, load {machine['load_average'][0]}\n"
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}\n\n"
        "error: greatest over the outputs of the RMS of (y - reference) / (1 + |reference|). grad.: relative\n"
        "error of the gradient of sum y^2. steps: trial steps of the forward solve; with steps per sample,\n"
        "until the last one is done. ops: ATen operations, the field's and views included; views: those that\n"
        "compute nothing; syncs: reads by the host; all per step, from two solves of different length,\n"
        "backward included (adjoint: per step of both solves). ms: per solve, median over rounds in which\n"
        "all take turns. faster than: median over the rounds of their time / ours. quart. range: q3 - q1 over\n"
        "the median. field: its own operations in the six calls of a step, forward."
    )


def table(case: Case, field_ops: int, rows: list[Row]) -> str:
    problem = case.problem
    gate = f"gate: error <= {problem.allowed:g} tol"
    if case.mode != "forward":
        gate += f", gradient <= {problem.allowed_gradient:g} tol"
    lines = [
        "",
        f"== {problem.title}",
        f"   {case.method}, {MODES[case.mode]}, {problem.repeats} rounds",
        f"   rtol = atol = tol = {problem.tolerance:g}; {gate}; field: {CALLS_PER_STEP * field_ops} ops/step",
        _cells(_TOP),
        _cells(_BELOW),
        *(_line(row) for row in rows),
    ]
    if case.mode != "forward":
        lines += ["  backward in total:", *(_backward(row) for row in rows if row.backward)]
    for peer in rows:
        if peer.library != "odenets" and peer.name not in (_peer(rows, "torchdiffeq"), _peer(rows, "torchode")):
            lines.append(f"  faster than {peer.name}:")
            lines += [
                f"    {row.name:26}{row.faster_than[peer.name]:.2f}x" for row in rows if peer.name in row.faster_than
            ]
    return "\n".join(lines)


def _peer(rows: list[Row], library: str) -> str | None:
    """The first of that library: its column."""
    return next((row.name for row in rows if row.library == library), None)


def _line(row: Row) -> str:
    start = (row.name, _digits(row.error), _digits(row.gradient_error))
    if not row.green:
        return _cells(start) + "   RED: wrong result, no speed"
    assert row.milliseconds is not None
    q1, median, q3 = statistics.quantiles(row.milliseconds, n=4, method="inclusive")
    faster = [
        next((f"{x:.2f}x" for name, x in row.faster_than.items() if name.startswith(library)), "-")
        for library in ("torchdiffeq", "torchode")
    ]
    counts = (str(row.steps or "-"), *map(_digits, (row.ops_per_step, row.views_per_step, row.syncs_per_step)))
    return _cells((*start, *counts, f"{median:.4g}", f"{(q3 - q1) / median:.0%}", *faster))


def _cells(values: Sequence[str]) -> str:
    first, *others = values
    return f"{first:{_WIDTHS[0]}}" + "".join(f"{x:>{width}}" for x, width in zip(others, _WIDTHS[1:]))


def _backward(row: Row) -> str:
    assert row.backward is not None
    text = f"    {row.name:26}{row.backward['ops']:>6} ops"
    if row.backward["steps"]:
        text += f", {row.backward['calls']:>4} calls of the field, {row.backward['steps']:>3} trial steps"
    return text


def _digits(x: float | None) -> str:
    if x is None:
        return "-"
    return f"{x:.3g}" if x < 100 else f"{x:.0f}"
