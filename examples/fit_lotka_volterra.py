"""Fit a neural ODE to noisy measurements of predators and prey, then look at times it has not seen.

python examples/fit_lotka_volterra.py            # about 20 s
python examples/fit_lotka_volterra.py --steps 50
"""

import argparse

import torch

from odenets.fields import MLP, LotkaVolterra
from odenets.models import NeuralODE
from odenets.solvers import FixedStep, solve


def main(steps: int) -> None:
    torch.manual_seed(0)
    # Measurements of log populations, every 0.1 time units, with 2% noise; the last third is held out.
    system = LotkaVolterra()
    ts = torch.linspace(0, 9, 91)
    truth = solve(system, system.initial_state(), ts, solver="dopri5", rtol=1e-7, atol=1e-9).ys.log()  # [91, 2]
    data = truth + 0.02 * torch.randn_like(truth)
    seen = 61

    # rk4 with one step per measurement interval: cheap, and accurate enough for this field.
    model = NeuralODE(MLP(2, hidden=64, depth=2), solver=FixedStep("rk4"), output="trajectory")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    window = 11  # short windows from random starts: long ones have a rough loss. Their starts are noisy too
    for step in range(steps):
        first = torch.randint(0, seen - window + 1, (64,))
        segments = data[first[:, None] + torch.arange(window)].transpose(0, 1)  # [window, 64, 2]
        loss = (model(segments[0], ts[:window]) - segments).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:4d}   window error {loss.item() ** 0.5:.4f} (noise 0.02)")

    with torch.no_grad():
        error = (model(truth[0], ts) - truth).square().mean(-1).sqrt()
    print(f"whole path from the true start, log populations: error {error[:seen].mean():.3f} on the times seen,")
    print(f"{error[seen:].mean():.3f} on the third held out (populations vary by {truth.std(0).mean():.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=600)
    main(parser.parse_args().steps)
