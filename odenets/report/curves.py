"""Training curves from metrics.csv."""

import csv
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from odenets.report.style import COLOURS, new_figure, tidy, write

LEFT_OUT = ("epoch", "step", "seconds", "lr")


def plot(path: Path, metrics: Path, name: str) -> Path:
    """The losses in one panel (log scale) and every other measure in a panel of its own, over epochs."""
    with open(metrics, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in LEFT_OUT]
    losses = [key for key in columns if "loss" in key]
    panels = [losses, *([key] for key in columns if key not in losses)]
    figure = new_figure(1.0 + 3.6 * len(panels), 3.4)
    figure.suptitle(f"{name}: training")
    for axes, keys in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        _panel(axes, rows, keys)
    return write(figure, path)


def _panel(axes: Axes, rows: list[dict[str, str]], keys: list[str]) -> None:
    percent = "accuracy" in keys[0]
    for key, colour in zip(keys, COLOURS):
        points = [(float(row["epoch"]), (100 if percent else 1) * float(row[key])) for row in rows if row.get(key)]
        axes.plot(*zip(*points), color=colour, label=label(key), marker="." if len(points) < 3 else "")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if "loss" in keys[0]:
        axes.set_yscale("log")
        axes.set_ylabel("loss")
        axes.legend(frameon=False)
    else:
        axes.set_ylabel(label(keys[0]) + (" (%)" if percent else ""))
    tidy(axes)


def label(key: str) -> str:
    """A column's name as a person reads it."""
    name, _, unit = key.partition("_in_")
    return name.replace("_", " ") + (f" ({unit.replace('_', ' ')})" if unit else "")
