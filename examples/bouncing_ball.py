"""Balls that bounce, in one batch, every one at its own times: find the restitution that gives the observed bounces.

The gradient goes through the times of the bounces (implicit function theorem) and through the jumps of the speed.

    python examples/bouncing_ball.py                 # a few seconds
"""

import torch

from odenets.solvers import Event, solve

HEIGHTS = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)


def falling(t, s):
    """x'' = -8 for (x, v) [batch, 2]."""
    return torch.stack([s[:, 1], torch.full_like(s[:, 1], -8.0)], -1)


def bounces(restitution: torch.Tensor) -> torch.Tensor:
    """Times of the first three bounces [3, batch]."""

    def reflect(t, s):
        return torch.stack([torch.zeros_like(s[:, 0]), -restitution * s[:, 1]], -1)

    bounce = Event(lambda t, s: s[:, 0], direction=-1, terminal=3, on_event=reflect, name="bounce")
    start = torch.stack([HEIGHTS, torch.zeros_like(HEIGHTS)], -1)
    return solve(falling, start, (0.0, 10.0), solver="tsit5", per_sample=True, events=[bounce]).events[0].ts


def main() -> None:
    observed = HEIGHTS.sqrt() / 2 * torch.tensor([[1.0], [1 + 2 * 0.8], [1 + 2 * 0.8 + 2 * 0.8**2]])
    restitution = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    print("step   restitution   squared error of the bounces' times")
    for step in range(8):
        loss = (bounces(restitution) - observed).square().sum()
        (gradient,) = torch.autograd.grad(loss, restitution)
        print(f"{step:4d} {float(restitution.detach()):13.6f} {float(loss.detach()):14.3e}")
        with torch.no_grad():
            restitution -= 0.01 * gradient


if __name__ == "__main__":
    main()
