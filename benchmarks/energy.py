"""Energy over long times: symplectic methods against the classic Runge-Kutta method.

    python benchmarks/energy.py docs/results/energy

Kepler's problem with eccentricity 0.6 (energy -1/2) and a Henon-Heiles orbit, STEPS steps of leapfrog, Yoshida's two
compositions and rk4 in float64, no gradients. The error is |H - H_0| / |H_0| at every step. Writes PATH.png, PATH.md
and PATH.json, which holds the largest error of each tenth of the run.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from odenets import solve
from odenets.fields import HenonHeiles, Kepler

STEPS = 100_000
METHODS = ("leapfrog", "yoshida4", "yoshida6", "rk4")
SYSTEMS: dict[str, tuple[Kepler | HenonHeiles, float]] = {
    "Kepler, e = 0.6": (Kepler(), 0.05),
    "Henon-Heiles": (HenonHeiles(), 0.2),
}
CHUNK = 10_000


def relative_errors(system: Kepler | HenonHeiles, method: str, h: float) -> Tensor:
    """|H - H_0| / |H_0| after every step [STEPS]."""
    x = system.initial_state(dtype=torch.float64)
    start, errors = system.energy(x), []
    with torch.no_grad():
        for _ in range(STEPS // CHUNK):
            ts = torch.arange(CHUNK + 1, dtype=torch.float64) * h
            xs = solve(system, x, ts, solver=method).ys[1:]
            errors.append((system.energy(xs) / start - 1).abs())
            x = xs[-1]
    return torch.cat(errors)


def plot(path: Path, errors: dict[str, dict[str, Tensor]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(errors), figsize=(10, 4), constrained_layout=True)
    for axis, (name, by_method) in zip(axes, errors.items()):
        h = SYSTEMS[name][1]
        for method, error in by_method.items():
            # the envelope: the largest error of every hundred steps
            largest = error.reshape(-1, 100).amax(1)
            axis.loglog((torch.arange(len(largest)) + 1) * 100 * h, largest, label=method)
        axis.set(title=f"{name}, h = {h:g}", xlabel="time", ylabel="relative energy error")
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main(path: Path) -> None:
    errors: dict[str, dict[str, Tensor]] = {}
    tenths: dict[str, dict[str, list[float]]] = {}
    rows = []
    for name, (system, h) in SYSTEMS.items():
        errors[name], tenths[name] = {}, {}
        for method in METHODS:
            begun = time.perf_counter()
            error = relative_errors(system, method, h)
            seconds = time.perf_counter() - begun
            errors[name][method] = error
            tenths[name][method] = error.reshape(10, -1).amax(1).tolist()
            first, last = tenths[name][method][0], tenths[name][method][-1]
            rows.append(f"| {name} | {method} | {h:g} | {first:.1e} | {last:.1e} | {last / first:.1f} |")
            print(rows[-1], f"{seconds:.0f} s", flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()} CPU, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}, commit {commit}"
    path.parent.mkdir(parents=True, exist_ok=True)
    plot(path.with_suffix(".png"), errors)
    record = {"machine": machine, "steps": STEPS, "largest error of each tenth": tenths}
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [
        "# Energy over long times",
        "",
        f"{STEPS} steps; the largest relative error of the energy in the first and in the last tenth of the run. A "
        "method that keeps a nearby energy has the same in both; drift shows as a ratio.",
        "",
        f"`python benchmarks/energy.py {path}`, float64, {machine}.",
        "",
        f"![energy error against time]({path.name}.png)",
        "",
        "| system | method | h | first tenth | last tenth | ratio |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/results/energy"))
