"""Solvers on one field, the Kepler problem, which has a closed form to compare with: after each period, the start.

python examples/compare_solvers.py
"""

import math
import time

import torch

from odenets.fields import Kepler
from odenets.solvers import Adaptive, FixedStep, Torchdiffeq, solve


def main() -> None:
    system = Kepler()
    start = system.initial_state(dtype=torch.float64)
    periods = 2 * math.pi * torch.arange(4, dtype=torch.float64)
    solvers = [
        FixedStep("euler", steps=6000),
        FixedStep("rk4", steps=3000),
        Adaptive("bosh3", rtol=1e-8, atol=1e-8),
        Adaptive("dopri5", rtol=1e-8, atol=1e-8),
        Adaptive("tsit5", rtol=1e-8, atol=1e-8),
        Adaptive("dopri8", rtol=1e-8, atol=1e-8),
        Torchdiffeq("dopri5", rtol=1e-8, atol=1e-8),
    ]
    print(f"{'solver':24} {'error':>9} {'energy drift':>13} {'evaluations':>12} {'seconds':>8}")
    for solver in solvers:
        began = time.perf_counter()
        solution = solve(system, start, periods, solver=solver)
        seconds = time.perf_counter() - began
        error = (solution.ys[-1] - start).norm()
        drift = (system.energy(solution.ys[-1]) - system.energy(start)).abs()
        name = f"{type(solver).__name__}({solver.method})"
        print(f"{name:24} {error:9.1e} {drift:13.1e} {solution.stats.nfe:12d} {seconds:8.2f}")


if __name__ == "__main__":
    main()
