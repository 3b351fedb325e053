"""Computed swings beside the true ones: the phase plane and the energy over time."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from odenets.report.style import COLOURS, new_figure, tidy, write


def plot_energy(path: Path, times: Tensor, computed: Tensor, true: Tensor, energy: Callable[[Tensor], Tensor]) -> Path:
    """Trajectories `computed` and `true` [m, T, 2] at `times` [T], the first four of them, and their energies."""
    figure = new_figure(10.0, 4.2)
    phase, drift = figure.subplots(1, 2)
    for i, colour in enumerate(COLOURS[: min(4, len(true))]):
        for states, style, name in ((true[i].cpu(), ":", "true"), (computed[i].cpu(), "-", "computed")):
            label = name if i == 0 else None
            phase.plot(states[:, 0], states[:, 1], style, color=colour, lw=1, label=label)
            drift.plot(times.cpu(), energy(states), style, color=colour, lw=1, label=label)
    phase.set_xlabel("angle (rad)")
    phase.set_ylabel("angular speed (rad per unit of time)")
    drift.set_xlabel("time (square root of length / gravity)")
    drift.set_ylabel("true energy of the state")
    drift.set_ylim(bottom=0)
    drift.legend(frameon=False)
    for axes in (phase, drift):
        tidy(axes)
    return write(figure, path)
