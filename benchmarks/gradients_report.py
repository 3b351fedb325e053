"""The tables and the figure of `benchmarks/gradients.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.marked import DOCS, about, markdown, rewrite

RESULTS = DOCS / "results"


def report(results: dict[str, Any]) -> str:
    """All of it as Markdown."""
    steps, many = results["steps"], results["many"]
    columns = [*(f"N = {n}" for n in steps), f"N = {many}"]
    parts = [
        "# Gradient methods: memory, time, error",
        f"{about(results['run'])} {results['seconds']:.0f} s of one process. What the methods are and when to use which:"
        " `docs/gradients.md`.",
        f"The gate: in float64 over 100 steps the exact methods differ from autograd by at most "
        f"{results['gate']['general']:.0e}, the reversible ones on the contracting flow by "
        f"{results['gate']['reversible, contracting']:.0e}.",
        f"## Time of forward and backward, N = {results['time_steps']}",
        "MLP 64-128-64, batch 64, float32, process time, median; the ratio is to autograd of the same scheme. torchode"
        " takes adaptive dopri5 steps at the tolerance 1e-4: not the same work.",
        markdown(["method", "ms", "ratio", "ATen operations a step"], _times(results)),
        "## Relative error of a float32 gradient",
        "Against float64 autograd of the same steps; 4 systems of two equations to T = 10, y0 differentiated by; the"
        " eigenvalues' real part is -1, 0 and 0.3. The linear part is learned, a forcing depends on time.",
    ]
    for kind, table in results["errors"].items():
        parts += [f"{kind.capitalize()} flow:", markdown(["method", *columns], _rows(table, len(columns), "{:.1e}"))]
    found = ", ".join(f"{kind} {error:.1e}" for kind, error in results["torchode"].items())
    parts += [
        f"torchode's backward solve at 1e-4 against autograd through its steps: {found}.",
        "## Most states alive at once",
        "The same MLP: a state is 64 x 64 numbers; parameters are two more.",
        markdown(["method", *columns], _rows(results["peaks"], len(columns), "{:.0f}")),
        "## Operations of the adjoint's backward pass",
        "Nine output intervals, dopri5 at 1e-6, the field of torchdiffeq's first example.",
        markdown(
            ["interval", "odenets", "torchdiffeq", "ratio", "reads by the host a step"],
            [
                [end, f"{x['odenets']}", f"{x['torchdiffeq']}", f"{x['torchdiffeq'] / x['odenets']:.1f}",
                 f"{x['reads per step of odenets']:.1f}"]
                for end, x in results["backward"].items()
            ],
        ),
        "## There and back with a coupled rk4",
        "Relative distance from the start after N steps forward and N back, T = 10.",
        markdown(["flow, precision, coupling", *columns[:-1]], _rows(results["reconstruction"], len(steps), "{:.0e}")),
        "![Errors, memory and the way back over the number of steps](gradients.png)",
    ]  # fmt: skip
    return "\n\n".join(parts)


def _times(results: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name in {**results["operations"], **results["times"]}:
        taken, reference = (results["times"].get(key) for key in (name, name.rsplit(" ", 1)[0] + " autograd"))
        count = results["operations"].get(name)
        measured = ["", ""] if taken is None else [f"{taken:.1f}", f"{taken / (reference or taken):.2f}"]
        rows.append([name, *measured, "" if count is None else f"{count:.0f}"])
    return rows


def _rows(table: dict[str, list[float]], length: int, form: str) -> list[list[str]]:
    return [
        [name, *("refused" if x != x else form.format(x) for x in row), *[""] * (length - len(row))]
        for name, row in table.items()
    ]


def write(results: dict[str, Any]) -> None:
    """To docs/results, and the times to docs/gradients.md."""
    if results["times"]:
        table = markdown(["method", "ms", "ratio", "ATen operations a step"], _times(results))
        rewrite(DOCS / "gradients.md", "times", f"{table}\n\n{about(results['run'])}")
    (RESULTS / "gradients.md").write_text(report(results) + "\n")
    (RESULTS / "gradients.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(RESULTS / "gradients.png", results)


def draw(path: Path, results: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    numbers = [*results["steps"], results["many"]]
    figure, grid = plt.subplots(2, 3, figsize=(16, 9), layout="constrained")
    axes = grid.ravel()
    for axis, (kind, table) in zip(axes, results["errors"].items()):
        for name, row in table.items():
            axis.loglog(numbers[: len(row)], row, marker="o", markersize=3, label=name)
        axis.set(title=f"{kind} flow, T = 10, float32", xlabel="steps N", ylabel="relative gradient error")
    for name, row in results["peaks"].items():
        axes[3].loglog(numbers[: len(row)], row, marker="o", markersize=3, label=name)
    axes[3].set(title="memory", xlabel="steps N", ylabel="most states alive at once")
    axes[3].legend(fontsize=6)
    for name, row in results["reconstruction"].items():
        if "float32" in name:
            axes[4].loglog(numbers[: len(row)], row, marker="o", markersize=3, label=name.replace("float32, ", ""))
    axes[4].set(title="way back of coupled rk4, float32", xlabel="steps N", ylabel="relative distance from the start")
    axes[4].legend(fontsize=6)
    names, taken = list(results["times"]), list(results["times"].values())
    axes[5].barh(names[::-1], taken[::-1])
    axes[5].set(title=f"forward and backward, N = {results['time_steps']}", xlabel="ms")
    figure.savefig(path, dpi=90)
