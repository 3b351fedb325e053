"""Time over achieved error, a panel for every number of trajectories."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from .rounds import Row
from .systems import System

# a library has a colour (Okabe and Ito's, told apart by the colour-blind), its variants have markers and dashes
COLOURS = {
    "odenets": "#0072B2",
    "torchdiffeq": "#E69F00",
    "torchode": "#009E73",
    "diffrax": "#D55E00",
    "scipy": "#000000",
}
STYLES = (("o", "-"), ("s", "--"), ("D", "-."), ("^", ":"), ("v", "-"), ("P", "--"), ("X", ":"), ("*", "-"))


def draw(path: Path, system: System, rows: Sequence[Row]) -> None:
    """Forward solves of one system."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in rows if row.system == system.name and not row.backward and row.cpu and row.error]
    batches = sorted({row.batch for row in rows})
    if not batches:
        return
    names = list(dict.fromkeys(row.name for row in rows))
    figure, axes = plt.subplots(1, len(batches), figsize=(5 * len(batches), 5), squeeze=False, layout="constrained")
    seen: dict[str, object] = {}
    for axis, batch in zip(axes[0], batches):
        for name in names:
            points = [row for row in rows if row.name == name and row.batch == batch]
            points.sort(key=lambda row: row.tolerance)
            library = name.split()[0]
            marker, dashes = STYLES[[n for n in names if n.split()[0] == library].index(name) % len(STYLES)]
            (seen[name],) = axis.loglog(
                [row.error for row in points], [1e3 * statistics.median_low(row.cpu) for row in points],
                color=COLOURS[library], marker=marker, linestyle=dashes, markersize=6, linewidth=1.4, alpha=0.9,
            )  # fmt: skip
        axis.set(title=f"{batch} trajectories" if batch > 1 else "one trajectory", xlabel="achieved error")
        axis.grid(which="major", alpha=0.3)
        axis.invert_xaxis()  # better to the right, as in the books
    axes[0][0].set_ylabel("processor time of a solve, ms")
    figure.suptitle(system.title)
    figure.legend(seen.values(), list(seen), loc="outside lower center", ncols=int(1.75 * len(batches)), fontsize=9)
    figure.savefig(path, dpi=90)
    plt.close(figure)
