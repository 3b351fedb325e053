"""A density on the plane beside the points it was fitted to and its own samples."""

from pathlib import Path

from torch import Tensor

from odenets.report.style import COLOURS, new_figure, tidy, write


def plot_density(path: Path, points: Tensor, axis: Tensor, density: Tensor, samples: Tensor) -> Path:
    """Held-out `points` [m, 2], `density` [n, n] at (axis[j], axis[i]), and as many of the `samples` [k, 2] as points
    for a fair comparison by eye; lengths in standard deviations of the data."""
    figure = new_figure(11.4, 3.9)
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    shown = min(len(points), len(samples))
    for axes, what, title in (
        (panels[0], points[:shown], f"{shown} held-out points"),
        (panels[2], samples[:shown], f"{shown} samples of the density"),
    ):
        axes.plot(what[:, 0].cpu(), what[:, 1].cpu(), ".", ms=2.5, color=COLOURS[0])
        axes.set_title(title)
        tidy(axes)
    ends = (float(axis[0]), float(axis[-1]))
    image = panels[1].imshow(density.cpu(), origin="lower", extent=(*ends, *ends), cmap="viridis", vmin=0)
    panels[1].set_title("density")
    figure.colorbar(image, ax=panels[1], label="per unit area")
    for axes in panels:
        axes.set_xlabel("$x_1$")
        axes.set_aspect("equal")
        axes.set_xlim(-2.7, 2.7)
        axes.set_ylim(-2.7, 2.7)
    panels[0].set_ylabel("$x_2$")
    return write(figure, path)
