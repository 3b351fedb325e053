"""The tables as Markdown."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

from marked import about, markdown

from .rounds import Row
from .systems import System

BASES = (
    "odenets compiled",
    "odenets rodas5p compiled, per sample",
    "odenets rodas5p compiled",
    "odenets eager",
    "odenets rodas5p",
)
HOW = """\
Relative tolerance {tolerance:g} in the tables, absolute tolerance the same (Robertson: 1e-4 of it), float64, the state
at the end; one thread, times are seconds of processor time. Everybody solves by dopri5 where no other method is named
(Robertson: diffrax by Kvaerno5), with the control of the step size that the library has by default. `error` is the
largest of |y - exact| / (s + |exact|) over all trajectories and components, s = atol / rtol; `gradient error` the largest
of |g - exact| / |exact| over y0 and the parameters, for the loss mean |y(end)|^2. Beyond the gate printed with a system
there is no speed. Contenders take turns, each of as many calls as fill 20 ms; a solve of more than 2 s is not repeated,
one of more than 20 s (65536 trajectories: 60 s) is given up. `time over ours` compares with `odenets compiled`, one step
size for all trajectories (Robertson: `odenets rodas5p compiled`, one step size each), or where that was not measured
with the eager solve. Times at equal error lie between two tolerances of one contender, on the lines of the figures."""
LEFT_OUT = """\
scipy has neither batches nor gradients: it solves one trajectory after the other, and 65536 would take minutes to hours.
torchdiffeq and torchode have no implicit method. For Robertson two of diffrax's ways are left out: one step size, for it
would factorise one matrix for the whole batch, and BacksolveAdjoint, for backward in time the system is unstable. 65536
trajectories are 256 different ones (Robertson: 16) over and over; a contender without a row there was not asked, for the
time that it would take. For one trajectory, a step size each is the same as one for all."""
HEAD = ("", "error", "compile, s", "median, ms", "quartiles, ms", "time over ours")


def base_of(rows: Sequence[Row]) -> Row | None:
    """The row of ours that the others are compared with: the compiled one-clock solve where it ran, else the eager."""
    timed = {row.name: row for row in rows if row.cpu}
    return next((timed[name] for name in BASES if name in timed), None)


def at_error(rows: Sequence[Row], error: float) -> float | None:
    """CPU seconds at that error, between the two nearest tolerances of one contender on logarithmic axes; None where
    its errors lie on one side."""
    points = sorted((row.error, statistics.median(row.cpu)) for row in rows if row.cpu and row.error)
    for (low, slow), (high, fast) in itertools.pairwise(points):
        if low <= error <= high:
            part = math.log(error / low) / math.log(high / low) if high > low else 0.0
            return math.exp((1 - part) * math.log(slow) + part * math.log(fast))
    return None


def table(rows: Sequence[Row], sweep: Sequence[Row] = (), error: float = 0.0) -> str:
    """One task's rows; with the same contenders' rows at several tolerances also their time at equal error."""
    base, head = base_of(rows), list(HEAD)
    if rows and rows[0].backward:
        head.insert(2, "gradient error")
    by_name = {row.name: [other for other in sweep if other.name == row.name] for row in rows}
    equal = {name: at_error(others, error) for name, others in by_name.items()}
    if sweep:
        head += [f"ms at error {error:g}", "over ours"]
    reference = equal.get(base.name) if base else None
    lines, notes = [], []
    for row in rows:
        cells = [row.name, _number(row.error, ".1e")]
        if row.backward:
            cells.append(_number(row.gradient_error, ".1e"))
        if row.cpu:
            q1, median, q3 = quartiles(row.cpu)
            cells += ["" if row.compile is None else f"{row.compile:.1f}", f"{1e3 * median:.3g}"]
            cells.append(f"{1e3 * q1:.3g} - {1e3 * q3:.3g}" if len(row.cpu) > 1 else "one solve")
            cells.append(f"{_ratio(row, base):.2f}" if base else "")
            if sweep:
                found = equal[row.name]
                cells.append("" if found is None else f"{1e3 * found:.3g}")
                cells.append(f"{found / reference:.2f}" if found and reference else "")
        else:
            short = row.note if len(row.note) < 32 else f"see note {len(notes) + 1}"
            notes += [] if len(row.note) < 32 else [f"{len(notes) + 1}. {row.name}: {row.note}"]
            cells += ["", short]
        lines.append(cells + [""] * (len(head) - len(cells)))
    text = markdown(head, lines)
    return text + ("\n\n" + "\n".join(notes) if notes else "")


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return (values[0],) * 3
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return q1, median, q3


def _ratio(row: Row, base: Row) -> float:
    """Of medians: rounds are paired only between contenders that took part in all of them."""
    if len(row.cpu) == len(base.cpu):
        return statistics.median(a / b for a, b in zip(row.cpu, base.cpu))
    return statistics.median(row.cpu) / statistics.median(base.cpu)


def _number(x: float | None, form: str) -> str:
    return "" if x is None else format(x, form)


def report(
    run: dict[str, Any], systems: Sequence[System], rows: Sequence[Row], tolerance: float, target: float
) -> str:  # fmt: skip
    """All of it."""
    parts = ["# Solvers, measured", about(run), HOW.format(tolerance=tolerance), LEFT_OUT]
    for system in systems:
        mine = [row for row in rows if row.system == system.name]
        if not mine:
            continue
        parts += [
            f"## {system.title}",
            f"Gate: error within {system.allowed:g} tolerances, gradient error within {system.allowed_gradient:g}.",
        ]
        if any(not row.backward for row in mine):
            parts.append(f"![Time over achieved error: {system.title}](solvers-{system.name}.png)")
        for backward in (False, True):
            for batch in sorted({row.batch for row in mine if row.backward == backward}):
                group = [row for row in mine if row.batch == batch and row.backward == backward]
                shown = [row for row in group if row.tolerance == tolerance]
                trajectories = f"{batch} trajectories" if batch > 1 else "One trajectory"
                parts.append(f"### {trajectories}, {'forward and backward' if backward else 'forward'}")
                parts.append(table(shown, () if backward else group, target))
    return "\n\n".join(parts) + "\n"
