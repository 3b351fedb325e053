"""Memory, time and error of every gradient method over the number of steps, beside torchdiffeq and torchode.

    python benchmarks/gradients.py [--quick] [--most 1000] [--json results.json] [--figure figure.png]

Error: float32 gradient of y0 against float64 autograd of the same steps, on a contracting, an oscillating and an
expanding flow. Memory: most bytes alive at once, in states. Time: forward and backward, ratios to autograd of the same
scheme in the same run. Reconstruction: how far from its start a coupled rk4 comes back, over N and the coupling.

The gate: in float64 and over 100 steps the exact methods agree with autograd to 1e-10 before anything is measured. On
the contracting flow reversible methods cannot: the way back magnifies rounding by about e^10 per unit of it, and
reversible Heun and alf themselves grow there. They are held to 1e-6 on it; how they break is in the tables.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.measure import describe_run
from benchmarks.memory import PeakMemory
from odenets import solve
from odenets.solvers import Reversible
from odenets.solvers.one_step import Accuracy

# method: (solver, gradient, the scheme whose autograd it is measured against)
METHODS: dict[str, tuple[Any, str]] = {
    "rk4 autograd": ("rk4", "autograd"),
    "rk4 checkpoint": ("rk4", "checkpoint"),
    "rk4 recursive": ("rk4", "recursive"),
    "rk4 discrete_adjoint": ("rk4", "discrete_adjoint"),
    "rk4 adjoint": ("rk4", "adjoint"),
    "coupled rk4 autograd": (Reversible("rk4"), "autograd"),
    "coupled rk4 reversible": (Reversible("rk4"), "reversible"),
    "reversible_heun autograd": ("reversible_heun", "autograd"),
    "reversible_heun reversible": ("reversible_heun", "reversible"),
    "alf autograd": ("alf", "autograd"),
    "alf reversible": ("alf", "reversible"),
}
FLOWS = ("contracting", "oscillating", "expanding")
LENGTH = 10.0


class Flow(nn.Module):
    """x' = M x + sin(t)/10 tanh(x) on pairs, M with eigenvalues -1 +- i, +- i or 0.3 +- i."""

    def __init__(self, kind: str, dtype: torch.dtype) -> None:
        super().__init__()
        decay = {"contracting": -1.0, "oscillating": 0.0, "expanding": 0.3}[kind]
        self.matrix = nn.Parameter(torch.tensor([[decay, 1.0], [-1.0, decay]], dtype=dtype))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return x @ self.matrix + 0.1 * torch.sin(t) * torch.tanh(x)


class MLP(nn.Module):
    def __init__(self, width: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = (nn.Linear(width, 2 * width), nn.Tanh(), nn.Linear(2 * width, width))
        self.net = nn.Sequential(*layers).to(dtype)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.net(x) * torch.cos(t)


def gradient(field: nn.Module, x: Tensor, steps: int, solver: Any, how: str, length: float = LENGTH) -> Tensor:
    x = x.clone().requires_grad_(True)
    field.zero_grad()
    solution = solve(field, x, (0.0, length), solver=solver, steps=steps, gradient=how, throw=False)
    solution.ys[-1].square().sum().backward()
    assert x.grad is not None
    return x.grad


def torchdiffeq_gradient(field: nn.Module, x: Tensor, steps: int, adjoint: bool, length: float = LENGTH) -> Tensor:
    """The 3/8 rule, which is what "rk4" names there."""
    import torchdiffeq

    x = x.clone().requires_grad_(True)
    field.zero_grad()
    times = torch.tensor([0.0, length], dtype=x.dtype)
    integrate = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint
    ys = integrate(field, x, times, method="rk4", options={"step_size": length / steps})
    ys[-1].square().sum().backward()
    assert x.grad is not None
    return x.grad


class _PerSample(nn.Module):
    """The field with a time for every sample."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.field(t[..., None], x)


def torchode_gradient(field: nn.Module, x: Tensor, steps: int, how: str, length: float = LENGTH) -> Tensor:
    """dopri5 at the tolerance 1e-4: it has no fixed steps, `steps` is not used."""
    import torchode

    x = x.clone().requires_grad_(True)
    field.zero_grad()
    term = torchode.ODETerm(_PerSample(field))
    controller = torchode.IntegralController(atol=1e-4, rtol=1e-4, term=term)
    kind = torchode.AutoDiffAdjoint if how == "autograd" else torchode.BacksolveAdjoint
    method = torchode.Dopri5(term=term)
    solver = kind(method, controller) if how == "autograd" else kind(term, method, controller)
    times = torch.tensor([[0.0, length]], dtype=x.dtype).expand(len(x), 2)
    solver.solve(torchode.InitialValueProblem(y0=x, t_eval=times)).ys[:, -1].square().sum().backward()
    assert x.grad is not None
    return x.grad


def gate() -> tuple[float, float]:
    """Largest relative difference of an exact method from autograd, float64, 100 steps: in general, and of reversible
    methods on the contracting flow.
    """
    worst = [0.0, 0.0]
    for kind in FLOWS:
        field, x = Flow(kind, torch.float64), torch.linspace(0.2, 1.0, 8, dtype=torch.float64).reshape(4, 2)
        exact: dict[str, Tensor] = {}
        for name, (solver, how) in METHODS.items():
            if how == "adjoint":
                continue
            scheme = name.rsplit(" ", 1)[0]
            found = gradient(field, x, 100, solver, how)
            exact.setdefault(scheme, found)
            magnified = how == "reversible" and kind == "contracting"
            difference = float((found - exact[scheme]).norm() / exact[scheme].norm())
            worst[magnified] = max(worst[magnified], difference)
    return worst[0], worst[1]


def reconstruction(kind: str, coupling: float, steps: int, dtype: torch.dtype) -> float:
    """Relative distance from its start at which a coupled rk4 comes back after `steps` steps there and back."""
    method: Any = Reversible("rk4", coupling)
    bound = method.bind(Flow(kind, dtype), Accuracy())
    y = start = torch.linspace(0.2, 1.0, 8, dtype=dtype).reshape(4, 2)
    h = LENGTH / steps
    times = [torch.tensor([(n + c) * h for c in method.c], dtype=dtype).unbind() for n in range(steps)]
    with torch.no_grad():
        for now in times:
            y = bound.trial(now, h, y, torch.Tensor, with_error=False).y1  # asks for no derivative
            bound.accepted()
        pair = bound.memory()
        for now in reversed(times):
            pair = bound.back(h, pair, lambda i, x, now=now: bound.evaluate(i, now, h, x), lambda x: x)
    return float((pair[0] - start).norm() / start.norm())


def reconstructions(numbers: list[int]) -> dict[str, list[float]]:
    return {
        f"{kind}, {name}, coupling {coupling}": [reconstruction(kind, coupling, n, dtype) for n in numbers]
        for kind in FLOWS
        for name, dtype in (("float32", torch.float32), ("float64", torch.float64))
        for coupling in (1.0, 0.999, 0.99, 0.9)
    }


def errors(numbers: list[int]) -> dict[str, dict[str, list[float]]]:
    table: dict[str, dict[str, list[float]]] = {kind: {} for kind in FLOWS}
    exacts: dict[tuple[str, str, int], Tensor] = {}
    for kind in FLOWS:
        for name, (solver, how) in METHODS.items():
            row = table[kind].setdefault(name, [])
            for n in numbers:
                x = torch.linspace(0.2, 1.0, 8, dtype=torch.float64).reshape(4, 2)
                if (kind, str(solver), n) not in exacts:
                    exacts[kind, str(solver), n] = gradient(Flow(kind, torch.float64), x, n, solver, "autograd")
                exact = exacts[kind, str(solver), n]
                found = gradient(Flow(kind, torch.float32), x.float(), n, solver, how)
                row.append(float((found - exact).norm() / exact.norm()))
    return table


def peaks(numbers: list[int], width: int = 64, batch: int = 64) -> dict[str, list[float]]:
    field, x = MLP(width), torch.randn(batch, width)
    table: dict[str, list[float]] = {}
    runs: dict[str, Any] = {
        name: (lambda n, s=solver, h=how: gradient(field, x, n, s, h)) for name, (solver, how) in METHODS.items()
    }
    runs["torchdiffeq autograd"] = lambda n: torchdiffeq_gradient(field, x, n, False)
    runs["torchdiffeq adjoint"] = lambda n: torchdiffeq_gradient(field, x, n, True)
    for name, run in runs.items():
        for n in numbers:
            with PeakMemory() as memory:
                run(n)
            table.setdefault(name, []).append(memory.peak / (4 * x.numel()))
    return table


def times(steps: int, repeats: int, width: int = 64, batch: int = 64) -> dict[str, float]:
    """Median milliseconds of this process for forward and backward, all in turn."""
    field, x = MLP(width), torch.randn(batch, width)
    runs: dict[str, Any] = {
        name: (lambda s=solver, h=how: gradient(field, x, steps, s, h)) for name, (solver, how) in METHODS.items()
    }
    runs["torchdiffeq autograd"] = lambda: torchdiffeq_gradient(field, x, steps, False)
    runs["torchdiffeq adjoint"] = lambda: torchdiffeq_gradient(field, x, steps, True)
    for how in ("autograd", "backsolve"):
        runs[f"torchode {how} (dopri5, 1e-4)"] = lambda how=how: torchode_gradient(field, x, 0, how)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            began = time.process_time()
            run()
            if turn:  # the first is to warm up
                taken[name].append(1e3 * (time.process_time() - began))
    return {name: statistics.median(values) for name, values in taken.items()}


def draw(path: str, results: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 5, figsize=(24, 4.5), layout="constrained")
    for axis, kind in zip(axes, FLOWS):
        for name, row in results["errors"][kind].items():
            axis.loglog(results["steps"], row, marker="o", markersize=3, label=name)
        axis.set(title=f"{kind} flow, T = {LENGTH:g}, float32", xlabel="steps N", ylabel="relative gradient error")
    for name, row in results["peaks"].items():
        axes[3].loglog(results["memory_steps"], row, marker="o", markersize=3, label=name)
    axes[3].set(title="memory", xlabel="steps N", ylabel="most states alive at once")
    axes[3].legend(fontsize=6)
    for name, row in results["reconstruction"].items():
        if "float32" in name:
            axes[4].loglog(results["steps"], row, marker="o", markersize=3, label=name.replace("float32, ", ""))
    axes[4].set(title="way back of coupled rk4, float32", xlabel="steps N", ylabel="relative distance from the start")
    axes[4].legend(fontsize=6)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps and repeats")
    parser.add_argument("--most", type=int, default=1000, help="largest number of steps of the tables")
    parser.add_argument("--json", help="write the results there")
    parser.add_argument("--figure", help="draw them there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    difference, magnified = gate()
    if not (difference < 1e-10 and magnified < 1e-6):
        sys.exit(f"the exact methods differ from autograd by {difference:.1e}, {magnified:.1e}: nothing measured")
    powers = (10, 100, 1000, 10_000)
    numbers = [10, 30] if arguments.quick else [n for n in powers if n <= arguments.most]
    memory_numbers = [10, 30] if arguments.quick else [n for n in powers if n <= arguments.most]
    results = {
        "run": describe_run(["torch", "torchdiffeq", "torchode"]),
        "gate": {"general": difference, "reversible, contracting": magnified},
        "steps": numbers,
        "errors": errors(numbers),
        "reconstruction": reconstructions(numbers),
        "memory_steps": memory_numbers,
        "peaks": peaks(memory_numbers),
        "time_steps": 10 if arguments.quick else 200,
        "times": times(10 if arguments.quick else 200, 1 if arguments.quick else 5),
    }
    print_tables(results)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")
    if arguments.figure:
        draw(arguments.figure, results)


def print_tables(results: dict[str, Any]) -> None:
    for kind in FLOWS:
        print(f"\nerror, {kind}: N = {results['steps']}")
        for name, row in results["errors"][kind].items():
            print(f"  {name:28s} " + "  ".join(f"{e:8.1e}" for e in row))
    print(f"\nway back of coupled rk4, relative distance from the start: N = {results['steps']}")
    for name, row in results["reconstruction"].items():
        print(f"  {name:38s} " + "  ".join(f"{e:8.1e}" for e in row))
    print(f"\npeak memory in states: N = {results['memory_steps']}")
    for name, row in results["peaks"].items():
        print(f"  {name:28s} " + "  ".join(f"{x:9.1f}" for x in row))
    print(f"\nforward and backward at N = {results['time_steps']}: ms, ratio to autograd of the same scheme")
    for name, taken in results["times"].items():
        reference = results["times"].get(name.rsplit(" ", 1)[0] + " autograd", taken)
        print(f"  {name:34s} {taken:9.1f}  {taken / reference:5.2f}")


if __name__ == "__main__":
    main()
