"""The verdict table: mean and spread over seeds, the best of each column, and what cannot be told apart from it."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from odenets.report.curves import label
from odenets.report.runs import Comparison, Row, Run

Better = Literal["high", "low", "none"]
HIGH = ("accuracy", "r2")


@dataclass(frozen=True)
class Column:
    """One figure of every run: how to get it, how to write it, and which way is better."""

    key: str
    title: str
    value: Callable[[Run], float | None]
    better: Better = "low"
    unit: str = ""
    scale: float = 1.0
    help: str = ""
    cost: bool = True


@dataclass(frozen=True)
class Cell:
    """A column's figure for a row. `mark`: best, tied (not told apart from the best by 95 %), or nothing."""

    values: tuple[float, ...]
    text: str
    mark: Literal["best", "tied", ""] = ""

    @property
    def mean(self) -> float:
        """The mean over seeds; nan without values."""
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def spread(self) -> float:
        """The standard deviation over seeds; nan below two values."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan


def better(measure: str) -> Better:
    """Which way a measure of quality is better."""
    return "high" if any(word in measure for word in HIGH) else "low"


def columns(comparison: Comparison) -> list[Column]:
    """The columns of a comparison, quality first; those without a value in any run are left out."""
    measures = [_measure(key) for key in comparison.measures]
    target = target_of(comparison)
    rest = [
        Column("parameters", "parameters", lambda r: r.result.get("parameters")),
        Column("nfe", "NFE", lambda r: r.costs.get("nfe"), help="evaluations of fields and branches in a forward pass"),
        Column("forward_ms", "forward", lambda r: r.costs.get("forward_seconds"), unit="ms", scale=1e3),
        Column("backward_ms", "backward", lambda r: r.costs.get("backward_seconds"), unit="ms", scale=1e3),
        Column("peak_mb", "peak memory", lambda r: r.costs.get("peak_bytes"), unit="MB", scale=1e-6,
               help="largest allocation of one forward and backward pass, weights not counted"),
        Column("gradient_error", "gradient error", lambda r: r.costs.get("gradient_error"),
               help="relative, against autograd through the same steps in float64"),
        Column("steps_to_target", "steps to target", lambda r: steps_to(r, *target) if target else None,
               help=f"optimizer steps until {label(target[0])} is {target[1]:.4g}" if target else ""),
        Column("spikes", "loss spikes", lambda r: r.result.get("spikes"),
               help="steps whose loss was 6 mean deviations above the running mean"),
        Column("seconds", "training", lambda r: r.result.get("seconds"), unit="s"),
    ]  # fmt: skip
    if not is_trained(comparison):
        rest = [column for column in rest if column.key not in ("steps_to_target", "spikes", "seconds")]
    return [c for c in [*measures, *rest] if any(c.value(run) is not None for run in comparison.runs)]


def _measure(key: str) -> Column:
    percent = "accuracy" in key
    return Column(
        key,
        label(key),
        lambda run: run.result.get("measures", {}).get(key),
        better(key),
        "%" if percent else "",
        100.0 if percent else 1.0,
        cost=False,
    )


def is_trained(comparison: Comparison) -> bool:
    """Whether any run took an optimizer step; otherwise nothing depends on the seed."""
    return any(run.result.get("steps") for run in comparison.runs if run.result)


def target_of(comparison: Comparison) -> tuple[str, float] | None:
    """The measure and the level that "steps to target" waits for: the given one, else what every run reached."""
    losses = [key for key in comparison.measures if "loss" in key] or comparison.measures
    finished = [run for run in comparison.runs if run.result and run.metrics]
    if not losses or not finished:
        return None
    if comparison.target is not None:
        return losses[0], comparison.target
    series = [
        [row[losses[0]] for row in run.metrics if math.isfinite(row.get(losses[0], math.nan))] for run in finished
    ]
    if not all(series):  # a run that never measured it has reached no level
        return None
    if better(losses[0]) == "high":
        return losses[0], min(max(values) for values in series)
    return losses[0], max(min(values) for values in series)


def steps_to(run: Run, key: str, level: float) -> float | None:
    """The first step at which `key` was at `level` or better; None if it never was."""
    for row in run.metrics:
        if key in row and (row[key] >= level if better(key) == "high" else row[key] <= level):
            return row["step"]
    return None


def cells(comparison: Comparison, column: Column) -> list[Cell]:
    """The column's cells, one per row, with its marks."""
    groups = [_values(row, column) for row in comparison.rows]
    means = [statistics.fmean(values) if values else math.nan for values in groups]
    known = [mean for mean in means if math.isfinite(mean)]
    if column.better == "none" or len(known) < 2 or len(set(known)) == 1:
        return [Cell(values, _text(values, column)) for values in groups]
    best = groups[means.index(max(known) if column.better == "high" else min(known))]
    texts = [_text(values, column) for values in groups]
    shown = texts[groups.index(best)]  # what reads the same is the same: seeds that change nothing have no spread
    return [Cell(values, text, "best" if text == shown else _mark(values, best)) for values, text in zip(groups, texts)]


def _values(row: Row, column: Column) -> tuple[float, ...]:
    found = [column.value(run) for run in row.finished]
    return tuple(float(value) for value in found if value is not None)


def _mark(values: Sequence[float], best: Sequence[float]) -> Literal["best", "tied", ""]:
    if not values:
        return ""
    if values is best or statistics.fmean(values) == statistics.fmean(best):
        return "best"
    return "" if differ(values, best) else "tied"


def differ(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two means differ by Welch's test at 95 %; single values have no spread to test by and count as such."""
    if len(one) < 2 or len(other) < 2:
        return statistics.fmean(one) != statistics.fmean(other)
    variances = [statistics.variance(values) / len(values) for values in (one, other)]
    gap = abs(statistics.fmean(one) - statistics.fmean(other))
    if sum(variances) == 0:
        return gap > 0
    freedom = sum(variances) ** 2 / sum(v * v / (len(x) - 1) for v, x in zip(variances, (one, other)))
    return bool(gap > stats.t.ppf(0.975, freedom) * math.sqrt(sum(variances)))


def _text(values: Sequence[float], column: Column) -> str:
    if not values:
        return "–"
    scaled = [value * column.scale for value in values]
    mean = statistics.fmean(scaled)
    spread = statistics.stdev(scaled) if len(scaled) > 1 else 0.0
    if column.cost and spread < 0.01 * abs(mean):
        spread = 0.0  # a count or a clock: its third digit decides nothing
    text = number(mean, spread)
    unit = f" {column.unit}" if column.unit else ""
    return f"{text} ± {_two_digits(spread)}{unit}" if spread else f"{text}{unit}"


def _two_digits(spread: float) -> str:
    return f"{spread:.0e}" if spread < 1e-3 else f"{spread:#.2g}".rstrip(".") if spread < 100 else f"{spread:,.0f}"


def number(value: float, spread: float = 0.0) -> str:
    """As many digits as the spread leaves meaning, three or four without one; whole numbers with separators."""
    if value == round(value) and not spread:
        return f"{value:,.0f}"
    if 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    if spread:
        return f"{value:,.{min(6, max(0, 1 - math.floor(math.log10(spread))))}f}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
