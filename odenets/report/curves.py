"""Training curves from metrics.csv."""

import csv
from pathlib import Path

from matplotlib.axes import Axes

from odenets.report.style import COLOURS, new_figure, tidy, write

LEFT_OUT = ("epoch", "step", "seconds", "lr")


def plot(path: Path, metrics: Path, name: str) -> Path:
    """Losses on the left (log scale), the other measures on the right, over epochs."""
    with open(metrics, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = [key for key in (rows[0] if rows else {}) if key not in LEFT_OUT]
    losses = [key for key in columns if "loss" in key]
    others = [key for key in columns if key not in losses]
    figure = new_figure(9.0, 3.6)
    figure.suptitle(f"{name}: training")
    axes = figure.subplots(1, 2 if others else 1, squeeze=False)[0]
    _panel(axes[0], rows, losses, "loss")
    axes[0].set_yscale("log")
    if others:
        percent = all("accuracy" in key for key in others)
        _panel(axes[1], rows, others, "accuracy (%)" if percent else "measure", 100 if percent else 1)
    return write(figure, path)


def _panel(axes: Axes, rows: list[dict[str, str]], keys: list[str], label: str, factor: float = 1) -> None:
    for key, colour in zip(keys, COLOURS):
        points = [(float(row["epoch"]), factor * float(row[key])) for row in rows if row.get(key)]
        axes.plot(*zip(*points), color=colour, label=key.replace("_", " "), marker="." if len(points) < 3 else "")
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.legend(frameon=False)
    tidy(axes)
