"""Where the time of an adaptive step goes: van der Pol, dopri5, 200 outputs, eagerly and compiled.

    python benchmarks/profile_step.py [--threads N]

Microseconds per trial step, medians: the field alone (the six evaluations of a step), the step's arithmetic around them,
and what the solve needs besides: control, outputs, bookkeeping. A compiled solve is one program: of it only the whole is
known, and what a call costs before its first step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from measure import describe_run
from problems import VanDerPol

from odenets import solve
from odenets.solvers.methods import ONE_STEP
from odenets.solvers.step import runge_kutta_step, stage_times

SETTINGS: dict[str, Any] = {"solver": "dopri5", "rtol": 1e-5, "atol": 1e-5}
TIMES = torch.linspace(0, 10, 200, dtype=torch.float64)


def microseconds(run: Callable[[], Any], repeats: int) -> float:
    run()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return statistics.median(found) * 1e6


def trials(solution: Any) -> int:
    accepted, rejected = (torch.as_tensor(x) for x in (solution.stats.accepted, solution.stats.rejected))
    return int((accepted + rejected).max())


def eager_step(field: Callable[..., Any], y: torch.Tensor) -> tuple[float, float]:
    """The six evaluations alone, and the whole step with its error estimate."""
    tableau: Any = ONE_STEP["dopri5"]
    t, h = torch.tensor(0.0, dtype=y.dtype), torch.tensor(1e-3, dtype=y.dtype)
    times = stage_times(torch.tensor(tableau.c, dtype=y.dtype), t, h, y.dtype)
    f0 = field(t, y)
    alone = microseconds(lambda: [field(time, y) for time in times[1:]], 300)
    return alone, microseconds(lambda: runge_kutta_step(field, tableau, times, h, y, f0), 300)


def row(name: str, field: Callable[..., Any], y: torch.Tensor, repeats: int, **settings: Any) -> str:
    steps = trials(solve(field, y, TIMES, **SETTINGS, **settings))
    whole = microseconds(lambda: solve(field, y, TIMES, **SETTINGS, **settings), repeats)
    compiled = settings.get("compile")
    parts = ["", ""]
    if not compiled:
        alone, step = eager_step(field, y)
        parts = [f"{alone:.0f}", f"{step - alone:.0f}"]
    rest = f"{whole / steps - step:.0f}" if not compiled else ""
    once = ""
    if compiled == "solve":
        ends = TIMES[[0, -1]] * 1e-9  # a solve of one step
        once = f"{microseconds(lambda: solve(field, y, ends, **SETTINGS, **settings), repeats):.0f}"
    return f"| {name} | {steps} | {whole / 1e3:.3g} | {whole / steps:.3g} | {' | '.join([*parts, rest, once])} |"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    field = VanDerPol(10.0)
    one = torch.tensor([2.0, 0.0], dtype=torch.float64)
    many = one + torch.linspace(-1, 1, 256, dtype=torch.float64)[:, None] * torch.tensor([0.5, 1.0])
    run = describe_run(("torch",))
    print(
        f"{run['machine']['cpu']}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, commit {run['commit']}"
    )
    print("| solve | trial steps | ms | us per step | field | arithmetic | the rest | us of a call with one step |")
    print("|---" * 8 + "|")
    print(row("one trajectory, eager", field, one, 5))
    print(row("one trajectory, step compiled", field, one, 5, compile="step"))
    print(row("one trajectory, solve compiled", field, one, 50, compile="solve"))
    print(row("256, one step size, eager", field, many, 5))
    print(row("256, one step size, step compiled", field, many, 5, compile="step"))
    print(row("256, one step size, solve compiled", field, many, 20, compile="solve"))
    print(row("256, a step size each, solve compiled", field, many, 20, compile="solve", per_sample=True))


if __name__ == "__main__":
    main()
