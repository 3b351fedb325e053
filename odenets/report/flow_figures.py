"""What the diagnostics say of each configuration's flow: stability, step halving, gains over depth."""

import cmath
import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from odenets.diagnostics import stability_region
from odenets.report.curves import label
from odenets.report.figures import Shown, draw
from odenets.report.runs import Comparison
from odenets.report.svg import INK, Styles

POINTS = 121
REACH = 40.0


def results(comparison: Comparison, name: str) -> list[tuple[int, Any]]:
    """(row, result) of a diagnostic: one run of each configuration, where it applies."""
    found = []
    for i, row in enumerate(comparison.rows):
        known = [run.diagnostics["results"] for run in row.runs if run.diagnostics]
        if known and name in known[0]:
            found.append((i, known[0][name]))
    return found


def stability(comparison: Comparison, styles: Styles) -> list[Shown]:
    """Per scheme: where |R(z)| <= 1, and h lambda of the trained layers that it steps."""
    by_scheme: dict[str, list[tuple[int, list[complex], bool]]] = {}
    for i, layers in results(comparison, "eigenvalues"):
        for layer in layers:
            whole = layer["linear"] is None
            points = layer["z"] if whole else layer["linear"]
            every = [complex(float(re), float(im)) for sample in points for re, im in sample]
            values = [z for z in every if cmath.isfinite(z)]
            by_scheme.setdefault(layer["scheme"], []).append((i, values, whole))
    return [_stability(scheme, groups, styles) for scheme, groups in by_scheme.items()]


def _stability(scheme: str, groups: list[tuple[int, list[complex], bool]], styles: Styles) -> Shown:
    known = [z for _, values, _ in groups for z in values]
    every = [z for z in known if abs(z) <= REACH]
    left = min([-3.0, *(1.15 * z.real for z in every)])
    right = max([1.5, *(1.15 * z.real for z in every)])
    high = max([2.2, *(1.15 * abs(z.imag) for z in every)])
    region = stability_region(scheme, (left, right), (-high, high), POINTS)

    def paint(axes: Axes) -> None:
        grid = (region.re.numpy(), region.im.numpy(), region.modulus.clamp(max=10).numpy())
        axes.contourf(*grid, levels=[0, 1], colors=["#888888"], alpha=0.22)
        axes.contour(*grid, levels=[1], colors=[INK], linewidths=0.9)
        axes.axvline(0, color=INK, lw=0.5)
        for i, values, _ in groups:
            axes.plot([z.real for z in values], [z.imag for z in values], ls="", ms=3.2, alpha=0.75, **styles.marker(i))
        axes.set_xlabel("Re hλ")
        axes.set_ylabel("Im hλ")
        axes.set_xlim(left, right)
        axes.set_ylim(-high, high)

    whose = "of the layers' vector fields" if all(w for *_, w in groups) else "of the layers' frozen linear parts"
    caption = f"Grey: stable. Points: hλ {whose}."
    if len(every) < len(known):
        caption += f" {len(known) - len(every)} of {len(known)} lie beyond |hλ| = {REACH:g} and are not drawn."
    return draw(f"stability-{scheme.replace('_', '-')}", scheme.replace("_", " "), caption, paint)


def step_halving(comparison: Comparison, styles: Styles) -> list[Shown]:
    """Quality of the trained weights when their steps are made smaller or larger."""
    studies = results(comparison, "step_study")
    if not studies:
        return []
    measure = studies[0][1]["measure"]
    factor = 100 if "accuracy" in measure else 1

    def paint_quality(axes: Axes) -> None:
        _steps(axes, studies, styles, lambda row: factor * _float(row["measures"].get(measure)))
        axes.set_ylabel(label(measure) + (" (%)" if factor == 100 else ""))

    def paint_distance(axes: Axes) -> None:
        _steps(axes, studies, styles, lambda row: _float(row["distance"]))
        axes.set_ylabel("relative change")

    caption = "Trained at h (1 on the axis), run at other steps, first seed; a flow that is an ODE stays where it is."
    moved = "|y - y_trained| / |y_trained - x|: how far the output moves, relative to what the flow does."
    return [
        draw("steps-quality", f"{label(measure)} at other steps", caption, paint_quality),
        draw("steps-distance", "output at other steps", moved, paint_distance),
    ]


def _float(value: float | str | None) -> float:
    """A number of a diagnosis, which writes those that are not finite as words; nan where there is none."""
    return math.nan if value is None else float(value)


def _factor(row: dict, trained_h: float | None) -> float:
    """The step relative to the trained one; of an adaptive solver, which has no step of its own, by the row's name."""
    if trained_h is not None and row["h"]:
        return row["h"] / trained_h
    name = row["name"]
    return 1.0 if row["kind"] == "trained" else 1 / float(name[3:]) if name.startswith("h /") else float(name[:-2])


def _steps(axes: Axes, studies: Sequence[tuple[int, dict]], styles: Styles, value: Callable[[dict], float]) -> None:
    for i, study in studies:
        rows = [row for row in study["rows"] if row["kind"] in ("trained", "step")]
        points = [(_factor(row, study["trained_h"]), value(row)) for row in rows]
        known = sorted((x, y) for x, y in points if math.isfinite(y))
        if known:
            axes.plot(*zip(*known), **styles.line(i))
            axes.plot(*zip(*known), ls="", ms=4.5, **styles.marker(i))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda x, _: f"h / {1 / x:g}" if x < 1 else "h" if x == 1 else f"{x:g} h")
    axes.set_xlabel("step size")


def verdicts(comparison: Comparison) -> list[list[str]]:
    """Is it an ODE? A line per configuration."""
    studies = results(comparison, "step_study")
    lines = [[comparison.rows[i].name, study["verdict"], _critical(study), study["reason"]] for i, study in studies]
    return [["configuration", "an ODE?", "critical step", "why"], *lines] if lines else []


def _critical(study: dict) -> str:
    critical, h = study["critical_step"], study["trained_h"]
    return "none" if critical is None else f"{critical:.3g} (trained at {h:.3g})"


def gains(comparison: Comparison, styles: Styles) -> list[Shown]:
    """Size of the signal and of the gradient over depth; row and column sums of stream mixings."""
    depth, streams = results(comparison, "gains"), results(comparison, "stream_gains")
    panels = [
        ("signal", depth, "signal over depth", "|x_n| / |x_0|, geometric mean over samples."),
        ("gradient", depth, "gradient over depth", "|dL/dx_n| / |dL/dx_N|, geometric mean over samples."),
        ("total_row", streams, "streams, forward", "Largest row sum of |mixing| from the first layer to layer n."),
        (
            "total_column",
            streams,
            "streams, backward",
            "Largest column sum of |mixing| from the first layer to layer n.",
        ),
    ]
    return [
        draw(f"gain-{key.replace('_', '-')}", title, caption, _over_depth(found, key, styles))
        for key, found, title, caption in panels
        if found
    ]


def _over_depth(found: list[tuple[int, dict]], key: str, styles: Styles) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        for i, result in found:
            values = [float(x) for x in result[key]]
            first = 0 if key in ("signal", "gradient") else 1  # products exist from layer 1 on
            axes.plot(range(first, first + len(values)), values, **styles.line(i))
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0.95), max(high, 1.05))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("layer n")
        axes.set_ylabel("gain")

    return paint
