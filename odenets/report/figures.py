"""The figures of a comparison: one panel each, no legend (the page has one for all)."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, MaxNLocator

from odenets.report.curves import LEFT_OUT, label
from odenets.report.runs import Comparison, Run
from odenets.report.svg import Styles, panel, styled, to_svg
from odenets.report.verdict import Column, better, columns, is_trained, number


@dataclass(frozen=True)
class Shown:
    """A figure of the page."""

    title: str
    caption: str
    svg: str


def draw(name: str, title: str, caption: str, paint: Callable[[Axes], None], height: float = 3.1) -> Shown:
    """Paint one panel."""
    with styled():
        figure = panel(height=height)
        paint(figure.subplots())
        return Shown(title, caption, to_svg(figure, name, f"{title}: {caption}".replace('"', "'")))


def trade_offs(comparison: Comparison, styles: Styles) -> list[Shown]:
    """Quality against time of a step, memory and parameters; against evaluations where nothing is trained."""
    if not comparison.measures:
        return []
    known = {column.key: column for column in columns(comparison)}
    quality = known[comparison.measures[0]]
    known["step_ms"] = Column("step_ms", "time of a step", _step, unit="ms", scale=1e3)
    found = []
    for key in ("step_ms", "peak_mb", "parameters" if is_trained(comparison) else "nfe"):
        cost = known.get(key)
        if cost is None or not any(cost.value(run) is not None for run in comparison.runs):
            continue
        good = "upper" if better(quality.key) == "high" else "lower"
        caption = f"Means over seeds, bars one standard deviation; better is {good} left."
        paint = _trade_off(comparison, styles, quality, cost)
        found.append(draw(f"trade-{key.replace('_', '-')}", f"{quality.title} against {cost.title}", caption, paint))
    return found


def _step(run: Run) -> float | None:
    return run.costs["forward_seconds"] + run.costs["backward_seconds"] if "forward_seconds" in run.costs else None


def _trade_off(comparison: Comparison, styles: Styles, quality: Column, cost: Column) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        spans: list[float] = []
        heights: list[float] = []
        for i, row in enumerate(comparison.rows):
            pairs = [(cost.value(run), quality.value(run)) for run in row.finished]
            points = [(x * cost.scale, y * quality.scale) for x, y in pairs if x is not None and y is not None]
            if not points:
                continue
            xs, ys = zip(*points)
            spans += xs
            heights += ys
            error = statistics.stdev(ys) if len(ys) > 1 else None
            axes.errorbar(statistics.fmean(xs), statistics.fmean(ys), yerr=error, ms=6, lw=1.2, **styles.marker(i))
        if spans and max(spans) > 2 * min(spans) > 0:
            axes.set_xscale("log")
            plain_log_ticks(axes.xaxis)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
        if heights and "error" in quality.key and max(heights) > 20 * min(heights) > 0:
            axes.set_yscale("log")
        else:
            _leave_room(axes)
        axes.set_xlabel(_with_unit(cost))
        axes.set_ylabel(_with_unit(quality))

    return paint


def _leave_room(axes: Axes) -> None:
    low, high = axes.get_ylim()
    room = 5e-4 * max(abs(low), abs(high))  # nobody reads the seventh digit of a quality
    if high - low < 2 * room:
        axes.set_ylim((low + high) / 2 - room, (low + high) / 2 + room)
    axes.ticklabel_format(axis="y", useOffset=False)


def _with_unit(column: Column) -> str:
    return column.title + (f" ({column.unit})" if column.unit else "")


def training_curves(comparison: Comparison, styles: Styles) -> list[Shown]:
    """Every measure of the log over the optimizer steps: mean over seeds."""
    keys = list(dict.fromkeys(k for run in comparison.runs for row in run.metrics for k in row))
    return [
        draw(
            f"curve-{key.replace('_', '-')}",
            label(key),
            "Mean over seeds after each epoch; a shaded band from the lowest to the highest seed.",
            _curve(comparison, styles, key),
        )
        for key in keys
        if key not in LEFT_OUT
    ]


def _curve(comparison: Comparison, styles: Styles, key: str) -> Callable[[Axes], None]:
    factor = 100 if "accuracy" in key else 1

    def paint(axes: Axes) -> None:
        positive = True
        for i, row in enumerate(comparison.rows):
            by_step: dict[float, list[float]] = {}
            for run in row.runs:
                for line in run.metrics:
                    if key in line and math.isfinite(line[key]):
                        by_step.setdefault(line["step"], []).append(factor * line[key])
            if not by_step:
                continue
            steps = sorted(by_step)
            axes.plot(steps, [statistics.fmean(by_step[s]) for s in steps], **styles.line(i))
            low, high = [min(by_step[s]) for s in steps], [max(by_step[s]) for s in steps]
            axes.fill_between(steps, low, high, color=styles.line(i)["color"], alpha=0.12, lw=0)
            positive = positive and min(low) > 0
        if "loss" in key and positive:
            axes.set_yscale("log")
            plain_log_ticks(axes.yaxis)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(label(key) + (" (%)" if factor == 100 else ""))

    return paint


def plain_log_ticks(axis: Axis) -> None:
    """0.2, 0.5, 1 instead of powers of ten where a logarithmic axis spans little."""
    low, high = axis.get_view_interval()
    if low > 0 and high / low < 100:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(lambda value, _: number(value))
        axis.set_minor_formatter(lambda value, _: "")


def portraits(comparison: Comparison, styles: Styles) -> list[Shown]:
    """Fitted trajectories of the first seed in the phase plane and over time, with the measured points."""
    rows = [(i, row.finished[0].portrait) for i, row in enumerate(comparison.rows) if row.finished]
    rows = [(i, portrait) for i, portrait in rows if portrait and len(portrait["names"]) > 1]
    if not rows:
        return []
    first = rows[0][1]
    names, unit = first["names"], f" ({first['unit']})" if first["unit"] else ""

    def phase(axes: Axes) -> None:
        axes.plot(*list(zip(*first["measured"]))[:2], "o:", color="#888888", ms=3, lw=0.7)
        for i, portrait in rows:
            axes.plot(*list(zip(*portrait["states"]))[:2], **styles.line(i))
        axes.set_xlabel(f"{names[0]}{unit}")
        axes.set_ylabel(f"{names[1]}{unit}")

    def over_time(component: int) -> Callable[[Axes], None]:
        def paint(axes: Axes) -> None:
            axes.plot(first["measured_times"], [x[component] for x in first["measured"]], "o", color="#888888", ms=3)
            for i, portrait in rows:
                axes.plot(portrait["times"], [x[component] for x in portrait["states"]], **styles.line(i))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_xlabel(first["time_unit"])
            axes.set_ylabel(f"{names[component]}{unit}")

        return paint

    caption = f"First seed of each configuration; grey: {first.get('origin', 'measured')}."
    return [
        draw("phase", f"{names[1]} against {names[0]}", caption, phase, 3.6),
        *(draw(f"time-{j}", f"{name} over time", caption, over_time(j)) for j, name in enumerate(names)),
    ]
