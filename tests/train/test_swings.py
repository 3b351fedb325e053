"""Hamiltonian fields and the task that learns them from noisy swings."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from odenets.data import Moons, PendulumSwings, Swings
from odenets.errors import UserError
from odenets.fields import HamiltonianField, Pendulum, SeparableHamiltonianField
from odenets.solvers import Adaptive, solve
from odenets.train.swings import SwingsFit

F64 = torch.float64


def still() -> Swings:
    """Two circles on the clock of the harmonic oscillator, x(t) = (cos t, -sin t) and twice as large."""
    times = 0.1 * torch.arange(9)
    circle = torch.stack([times.cos(), -times.sin()], -1)
    both = torch.stack([circle, 2 * circle])
    return Swings(0.1, both, both)


class Circling(nn.Module):
    """x(t) exactly, at a speed: `network(x0, ts)`."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self.speed = speed

    def forward(self, x: Tensor, ts: Tensor) -> Tensor:
        c, s = (self.speed * ts).cos().float(), (self.speed * ts).sin().float()
        q, p = x.unbind(-1)
        return torch.stack([c[:, None] * q + s[:, None] * p, c[:, None] * p - s[:, None] * q], -1)


def test_simulated_swings_keep_the_energy_and_the_clock():
    data = PendulumSwings(trajectories=3, noise=0.0, longer=2).load()
    assert data.train.shape == (3, 41, 2)
    assert data.test.shape == (16, 81, 2)
    energy = data.energy(data.test.double())
    assert float((energy - energy[:, :1]).abs().max()) < 1e-6
    found = solve(Pendulum(gravity=1.0), data.test[:, 0].double(), 0.2 * torch.arange(81.0), solver="dopri8", rtol=1e-9)
    torch.testing.assert_close(found.ys.transpose(0, 1).float(), data.test, atol=1e-5, rtol=0)
    noisy = PendulumSwings(trajectories=3, longer=2).load()
    assert float((noisy.train - data.train).std()) == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("make", [HamiltonianField, SeparableHamiltonianField])
def test_the_field_is_the_symplectic_gradient_of_its_energy_and_keeps_it(make):
    torch.manual_seed(0)
    field = make(4, 16).to(F64)
    x = torch.randn(5, 4, dtype=F64)
    t = torch.tensor(0.0, dtype=F64)
    gradient = torch.stack([torch.autograd.functional.jacobian(lambda z: field.energy(t, z[None])[0], y) for y in x])
    symplectic = torch.zeros(4, 4, dtype=F64)
    symplectic[:2, 2:], symplectic[2:, :2] = torch.eye(2), -torch.eye(2)
    torch.testing.assert_close(field(t, x), gradient @ symplectic.T)
    end = solve(field, x, (0.0, 20.0), solver=Adaptive("dopri8", rtol=1e-10, atol=1e-10)).ys[-1]
    assert float((end - x).abs().max().detach()) > 0.1
    torch.testing.assert_close(field.energy(t, end), field.energy(t, x), atol=1e-8, rtol=0)


def test_leapfrog_takes_the_separable_field_and_adjoint_and_autograd_agree():
    torch.manual_seed(0)
    field = SeparableHamiltonianField(2, 8).to(F64)
    x = torch.randn(3, 2, dtype=F64)
    exact = solve(field, x, (0.0, 2.0), solver="dopri8", rtol=1e-10, atol=1e-10).ys[-1]
    errors = [float((solve(field, x, (0.0, 2.0), solver="leapfrog", steps=n).ys[-1] - exact).norm()) for n in (10, 20)]
    assert 3.5 < errors[0] / errors[1] < 4.5
    found = []
    for gradient in ("autograd", "adjoint"):
        field.zero_grad()
        found_ys = solve(field, x, (0.0, 1.0), solver="dopri5", rtol=1e-9, atol=1e-9, gradient=gradient).ys
        found_ys[-1].sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in field.parameters()]))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)


def test_measures_of_known_motions():
    task = SwingsFit(Circling(1.0), horizon=3)
    task.attach(still())
    assert task.evaluate()["test_rmse"] < 1e-6
    (pieces,) = task.select(torch.arange(len(task.pieces)))
    assert pieces.shape == (2 * 6, 4, 2)
    assert float(task(pieces, progress=0.0)) < 1e-12
    wrong = SwingsFit(Circling(0.0), horizon=3)  # stands still: the error at k steps is a chord of the circle
    wrong.attach(still())
    chords = sum((2 * math.sin(0.05 * k)) ** 2 for k in (1, 2, 3)) / 3
    assert float(wrong(pieces, progress=0.0)) == pytest.approx((1 + 4) / 2 * chords / 2, rel=1e-4)
    assert wrong.evaluate()["energy_drift"] == 0
    measured = task.evaluate()["energy_drift"]  # the pendulum's energy along circles, which are not its orbits
    energies = Swings.energy(still().test)
    expected = ((energies - energies[:, :1]).abs().amax(1) / energies[:, 0]).mean()
    assert measured == pytest.approx(float(expected), rel=1e-4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="data=pendulum_swings, got Points"):
        SwingsFit(nn.Identity()).attach(Moons(samples=20).load())
    with pytest.raises(UserError, match=r"task\.horizon: expected less than 9"):
        SwingsFit(nn.Identity(), horizon=9).attach(still())
    with pytest.raises(ValueError, match="even dim"):
        HamiltonianField(3)
    with pytest.raises(UserError, match="points >= 2"):
        PendulumSwings(points=1)


def test_short_training_falls_and_reports_the_drift(cli, tmp_path: Path):
    folder = tmp_path / "run"
    outcome = cli(
        "train", "experiment=hnn_pendulum", "field=separable_hamiltonian", "solver=leapfrog", "field.hidden=16",
        "data.trajectories=8", "data.points=12", "data.longer=2", "task.horizon=2", "trainer.epochs=15",
        "trainer.batch_size=80", "trainer.eval_every=5", "trainer.ema=0", "run.tensorboard=false", f"run.dir={folder}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = (folder / "metrics.csv").read_text().splitlines()
    losses = [float(row.split(",")[rows[0].split(",").index("train_loss")]) for row in rows[1:]]
    assert losses[-1] < 0.7 * losses[0]
    result = json.loads((folder / "result.json").read_text())
    assert result["measures"]["energy_drift"] == pytest.approx(float(rows[-1].split(",")[-1]), rel=1e-4)
    assert "energy.png" in result["plots"]
