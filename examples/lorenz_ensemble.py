"""Four thousand Lorenz systems, each with its own rho, in one compiled program: where do they come to rest?

For rho between 1 and about 13.9 every trajectory spirals into a point with z = rho - 1; above 24.7 none does. The
gradient of that resting height with respect to rho is 1, by sensitivities that are carried along.

    python examples/lorenz_ensemble.py               # seconds, most of them compiling, which is kept
"""

import time

import torch

from odenets.solvers import solve


def lorenz(t, state, rho):
    x, y, z = state.unbind(-1)
    return torch.stack([10 * (y - x), x * (rho - z) - y, x * y - 8 / 3 * z], -1)


def main() -> None:
    rho = torch.linspace(2.0, 40.0, 4_000, dtype=torch.float64)
    start = torch.ones(len(rho), 3, dtype=torch.float64)
    settings = {"solver": "tsit5", "ensemble": True, "rtol": 1e-8, "atol": 1e-8}
    solve(lorenz, start[:8], (0.0, 1.0), args=(rho[:8],), **settings)  # compiles
    begin = time.perf_counter()
    solution = solve(lorenz, start, (0.0, 60.0), args=(rho,), **settings)
    seconds = time.perf_counter() - begin
    steps = int((solution.stats.accepted + solution.stats.rejected).sum())
    print(f"{len(rho)} trajectories, {steps:,} steps in {seconds:.2f} s")

    height = solution.ys[-1, :, 2]
    resting = (height - (rho - 1)).abs() < 1e-3
    for low, high in ((2, 13), (14, 24), (25, 40)):
        inside = (rho >= low) & (rho <= high)
        print(f"rho in [{low:2d}, {high}]: {100 * float(resting[inside].double().mean()):6.2f}% at rest at t = 60")

    few = torch.linspace(2.0, 13.0, 100, dtype=torch.float64, requires_grad=True)
    height = solve(lorenz, start[:100], (0.0, 60.0), args=(few,), **settings).ys[-1, :, 2]
    (slope,) = torch.autograd.grad(height.sum(), few)
    print(f"d(height) / d(rho) of those at rest: between {float(slope.min()):.6f} and {float(slope.max()):.6f}")


if __name__ == "__main__":
    main()
