"""Memory, time and error of every gradient method over the number of steps, beside torchdiffeq and torchode.

    python benchmarks/gradients.py [--quick] [--untimed] [--write]

Error: float32 gradient of y0 against float64 autograd of the same steps, on a contracting, an oscillating and an
expanding flow. Memory: most bytes alive at once, in states. Time: forward and backward, ratios to autograd of the same
scheme in the same run, by process time. Operations: ATen's, of forward and backward. Reconstruction: how far from its
start a coupled rk4 comes back, over N and the coupling. N is 10, 100 and 1000, and 10,000 for the methods whose memory
allows it; about 7 minutes. --write puts tables and figure into
docs/results/gradients.{md,json,png}, and the times into docs/gradients.md.

The gate: in float64 and over 100 steps the exact methods agree with autograd to 1e-10 before anything is measured. On
the contracting flow reversible methods cannot: the way back magnifies rounding by about e^10 per unit of it, and
reversible Heun and alf themselves grow there. They are held to 1e-6 on it; how they break is in the tables.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.gradients_report import report, write
from benchmarks.measure import OpCounter, describe_run
from benchmarks.memory import PeakMemory
from odenets import solve
from odenets.solvers import Reversible, SolveError
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
PEERS = ("torchdiffeq autograd", "torchdiffeq adjoint")
LONG = ("rk4 adjoint", "reversible_heun reversible", "alf reversible")  # in memory and time that 10,000 steps allow
MANY = 10_000
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


def run(name: str, field: nn.Module, x: Tensor, steps: int, length: float = LENGTH) -> Tensor:
    """The gradient of y0 by a method of ours or of torchdiffeq."""
    if name in PEERS:
        return torchdiffeq_gradient(field, x, steps, name.endswith("adjoint"), length)
    solver, how = METHODS[name]
    return gradient(field, x, steps, solver, how, length)


def errors(numbers: list[int], many: int | None = None) -> dict[str, dict[str, list[float]]]:
    """float32 against float64 autograd of the same scheme; with `many` also so many steps on the oscillating flow."""
    table: dict[str, dict[str, list[float]]] = {kind: {} for kind in FLOWS}
    start = torch.linspace(0.2, 1.0, 8, dtype=torch.float64).reshape(4, 2)
    exacts: dict[tuple[str, str, int], Tensor] = {}
    for kind in FLOWS:
        for name in (*METHODS, *PEERS):
            scheme = name.rsplit(" ", 1)[0]
            extra = [many] if many and kind == "oscillating" and name in LONG else []
            row = table[kind].setdefault(name, [])
            for n in [*numbers, *extra]:
                if (kind, scheme, n) not in exacts:
                    exacts[kind, scheme, n] = run(f"{scheme} autograd", Flow(kind, torch.float64), start, n)
                exact = exacts[kind, scheme, n]
                try:
                    found = run(name, Flow(kind, torch.float32), start.float(), n)
                    row.append(float((found - exact).norm() / exact.norm()))
                except SolveError:  # an adjoint that noticed that it had lost its way
                    row.append(math.nan)
    return table


def torchode_errors() -> dict[str, float]:
    """torchode's backward solve against autograd through its own steps, float32 against float64, tolerance 1e-4."""
    start, found = torch.linspace(0.2, 1.0, 8, dtype=torch.float64).reshape(4, 2), {}
    for kind in FLOWS:
        exact = torchode_gradient(Flow(kind, torch.float64), start, 0, "autograd")
        mine = torchode_gradient(Flow(kind, torch.float32), start.float(), 0, "backsolve")
        found[kind] = float((mine - exact).norm() / exact.norm())
    return found


def peaks(numbers: list[int], many: int | None = None, width: int = 64, batch: int = 64) -> dict[str, list[float]]:
    """Most bytes alive at once, in states."""
    field, x = MLP(width), torch.randn(batch, width)
    table: dict[str, list[float]] = {}
    for name in (*METHODS, *PEERS):
        for n in [*numbers, *([many] if many and name in ("rk4 adjoint", "reversible_heun reversible") else [])]:
            with PeakMemory() as memory:
                run(name, field, x, n)
            table.setdefault(name, []).append(memory.peak / (4 * x.numel()))
    return table


def operations(steps: int = 20) -> dict[str, float]:
    """ATen operations of a step, forward and backward, between two solves of different length."""
    field, x = MLP(8), torch.randn(4, 8)

    def count(name: str, n: int) -> int:
        with OpCounter() as counter:
            run(name, field, x, n)
        return counter.total

    return {name: (count(name, 2 * steps) - count(name, steps)) / steps for name in (*METHODS, *PEERS)}


class Cubic(nn.Module):
    """The field of torchdiffeq's first example, 2-50-2 on cubes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.net(x**3)


def backward_operations(end: float) -> dict[str, float]:
    """Of the backward pass of the continuous adjoint over nine output intervals, dopri5 at 1e-6, on `Cubic`."""
    import torchdiffeq

    field, ts = Cubic(), torch.linspace(0, end, 10)
    y0 = torch.tensor([[2.0, 0.0]], requires_grad=True)
    solution = solve(field, y0, ts, solver="dopri5", rtol=1e-6, atol=1e-6, gradient="adjoint")
    with OpCounter() as mine:
        solution.ys.square().sum().backward()
    ys = torchdiffeq.odeint_adjoint(field, y0, ts, method="dopri5", rtol=1e-6, atol=1e-6)
    with OpCounter() as theirs:
        ys.square().sum().backward()
    steps = (solution.stats.accepted_backward or 0) + (solution.stats.rejected_backward or 0)
    return {"odenets": mine.total, "torchdiffeq": theirs.total, "reads per step of odenets": mine.syncs / steps}


def times(steps: int, repeats: int, width: int = 64, batch: int = 64) -> dict[str, float]:
    """Median milliseconds of this process for forward and backward, all in turn."""
    field, x = MLP(width), torch.randn(batch, width)
    runs: dict[str, Callable[[], Tensor]] = {
        name: (lambda name=name: run(name, field, x, steps))  # type: ignore[misc]
        for name in (*METHODS, *PEERS)
    }
    for how in ("autograd", "backsolve"):
        runs[f"torchode {how}"] = lambda how=how: torchode_gradient(field, x, 0, how)  # type: ignore[misc]
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, go in runs.items():
            began = time.process_time()
            go()
            if turn:  # the first is to warm up
                taken[name].append(1e3 * (time.process_time() - began))
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps and repeats")
    parser.add_argument("--untimed", action="store_true", help="leave the times out: on a machine that is not quiet")
    parser.add_argument("--write", action="store_true", help="put the results into docs/results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    difference, magnified = gate()
    if not (difference < 1e-10 and magnified < 1e-6):
        sys.exit(f"the exact methods differ from autograd by {difference:.1e}, {magnified:.1e}: nothing measured")
    numbers, many = ([10, 30], 60) if arguments.quick else ([10, 100, 1000], MANY)
    steps, repeats = (10, 1) if arguments.quick else (200, 5)
    began = time.process_time()
    results = {
        "gate": {"general": difference, "reversible, contracting": magnified},
        "steps": numbers,
        "many": many,
        "time_steps": steps,
        "times": {} if arguments.untimed else times(steps, repeats),
        "errors": errors(numbers, many),
        "torchode": torchode_errors(),
        "peaks": peaks(numbers, many),
        "reconstruction": reconstructions(numbers),
        "operations": operations(),
        "backward": {f"[0, {end:g}]": backward_operations(end) for end in (1.0, 4.0)},
        "run": describe_run(["torch", "torchdiffeq", "torchode"]),
    }
    results["seconds"] = time.process_time() - began
    print(report(results))
    if arguments.write:
        write(results)


if __name__ == "__main__":
    main()
