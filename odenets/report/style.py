"""One look for all plots."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart with any colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def new_figure(width: float = 7.0, height: float = 4.2) -> Figure:
    """A figure without global state: it draws on machines without a display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: object) -> None:
    """Light grid, no box."""
    axes.grid(alpha=0.25)  # type: ignore[attr-defined]
    axes.spines[["top", "right"]].set_visible(False)  # type: ignore[attr-defined]


def write(figure: Figure, path: Path) -> Path:
    """Save as PNG and return the path."""
    figure.savefig(path, dpi=130)
    return path
