"""Define your own vector field, solve it, and differentiate the solution with respect to a coefficient.

python examples/own_vector_field.py
"""

import torch
from torch import Tensor, nn

from odenets.solvers import solve


class FitzHughNagumo(nn.Module):
    """A neuron: v' = v - v^3/3 - w + current,  w' = 0.08 (v + 0.7 - 0.8 w); dimensionless."""

    def __init__(self, current: float = 0.5):
        super().__init__()
        self.current = nn.Parameter(torch.tensor(current))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        v, w = x.unbind(-1)
        return torch.stack([v - v**3 / 3 - w + self.current, 0.08 * (v + 0.7 - 0.8 * w)], dim=-1)


def main() -> None:
    neuron = FitzHughNagumo()
    start = torch.tensor([[-1.0, 1.0], [0.0, 0.0], [2.0, -0.5]], dtype=torch.float64)  # three neurons at once
    times = torch.linspace(0, 100, 201, dtype=torch.float64)
    solution = solve(neuron, start, times, solver="dopri5", rtol=1e-8, atol=1e-8)

    v = solution.ys[..., 0].detach()  # [201, 3]
    spikes = ((v[:-1] < 1) & (v[1:] >= 1)).sum(0)
    print(f"{solution.stats.nfe} evaluations, {solution.stats.accepted} steps")
    print(f"spikes in 100 time units, per neuron: {spikes.tolist()}")

    # How the mean voltage of the last state answers a change of the input current: exact, through the solver.
    solution.ys[-1, :, 0].mean().backward()
    print(f"d(mean voltage at t = 100)/d(current) = {neuron.current.grad:.6f}")


if __name__ == "__main__":
    main()
