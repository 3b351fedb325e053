"""A fitted trajectory over its data, in time and in the phase plane."""

from pathlib import Path

from matplotlib.ticker import MaxNLocator
from torch import Tensor

from odenets.data import Series
from odenets.report.style import COLOURS, new_figure, tidy, write


def plot_fit(path: Path, data: Series, times: Tensor, fitted: Tensor) -> Path:
    """Lines `fitted` [M, d] at `times` [M] over the measured points."""
    figure = new_figure(7.6, 4.2)
    axes = figure.subplots()
    for i, (name, colour) in enumerate(zip(data.names, COLOURS)):
        axes.plot(data.origin + times.cpu(), fitted[:, i].cpu(), color=colour, label=f"{name}, fitted")
        axes.plot(data.origin + data.times.cpu(), data.values[:, i].cpu(), "o", color=colour, label=f"{name}, measured")
    axes.set_xlabel(data.time_unit)
    axes.set_ylabel(data.unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", frameon=False, ncols=2 * len(data.names))
    tidy(axes)
    return write(figure, path)


def plot_phase(path: Path, data: Series, fitted: Tensor) -> Path:
    """The first two components against each other: the fitted orbit and the measured points in order."""
    figure = new_figure(5.2, 4.6)
    axes = figure.subplots()
    axes.plot(fitted[:, 0].cpu(), fitted[:, 1].cpu(), color=COLOURS[0], label="fitted")
    axes.plot(data.values[:, 0].cpu(), data.values[:, 1].cpu(), "o:", color=COLOURS[1], lw=0.8, label="measured")
    axes.set_xlabel(f"{data.names[0]} ({data.unit})")
    axes.set_ylabel(f"{data.names[1]} ({data.unit})")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    tidy(axes)
    return write(figure, path)
