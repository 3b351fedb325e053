"""Density estimation: its loss against closed forms, and short runs from the configuration."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from odenets.data import Digits, Moons, Points
from odenets.errors import UserError
from odenets.fields import MLP
from odenets.models import CNF
from odenets.solvers import FixedStep
from odenets.train.density import DensityEstimation


class Expanding(nn.Module):
    """x' = r x: the density at T = 1 is N(0, e^(2 r) I)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.rate * x


def test_moons_are_scaled_and_split_the_same_way_each_time():
    data = Moons(samples=500).load()
    assert data.train.shape == (400, 2)
    assert data.test.shape == (100, 2)
    torch.testing.assert_close(data.train.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(data.train.std(0), torch.ones(2))
    assert torch.equal(Moons(samples=500).load().test, data.test)
    assert not torch.equal(Moons(samples=500, seed=1).load().test, data.test)


def test_the_loss_is_the_negative_log_likelihood_with_weighted_penalties():
    rate, points = 0.3, Moons(samples=500).load()
    task = DensityEstimation(CNF(Expanding(rate), solver="dopri8"), kinetic=0.5, jacobian=0.25)
    task.attach(points)
    (batch,) = task.select(torch.arange(50))
    square = batch.square().sum(-1).mean()  # |x(1)|^2; |x(t)|^2 = |x(1)|^2 exp(2 r (t - 1)), |df/dx|_F^2 = 2 r^2
    nats = math.log(2 * math.pi) + 2 * rate + square / 2 * math.exp(-2 * rate)
    kinetic = rate**2 * square * (1 - math.exp(-2 * rate)) / (2 * rate)
    expected = nats + 0.5 * kinetic + 0.25 * 2 * rate**2
    torch.testing.assert_close(task(batch, progress=0.0).detach(), expected, atol=1e-4, rtol=0)
    measures = task.eval().evaluate()
    square = points.test.square().sum(-1).mean()
    expected = math.log(2 * math.pi) + 2 * rate + square / 2 * math.exp(-2 * rate)
    assert measures["test_loss"] == pytest.approx(float(expected), abs=1e-4)
    assert measures["jacobian_norm"] == pytest.approx(2 * rate**2, abs=1e-4)


def test_the_mass_on_the_plane_shows_steps_too_coarse_for_the_field():
    masses = []
    for solver in (FixedStep("rk4", steps=8), FixedStep("euler", steps=1)):
        task = DensityEstimation(CNF(Expanding(-0.5), solver=solver))
        task.attach(Moons(samples=50).load())
        masses.append(task.facts()["mass_on_the_plane"])
    assert masses[0] == pytest.approx(1, abs=1e-3)
    # one Euler step backward is z = 1.5 x and log_det = 1: the integral is e / 1.5^2
    assert masses[1] == pytest.approx(math.e / 1.5**2, abs=1e-3)


@pytest.mark.parametrize("change", [{"kinetic": -1.0}, {"jacobian": -1.0}])
def test_weights_are_checked(change: dict[str, float]):
    with pytest.raises(UserError, match="kinetic >= 0 and jacobian >= 0"):
        DensityEstimation(CNF(MLP(2)), **change)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="model=cnf"):
        DensityEstimation(nn.Identity())  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"data=moons, got LabelledImages"):
        DensityEstimation(CNF(MLP(2))).attach(Digits().load())
    with pytest.raises(UserError, match=r"model\.dim: expected 3"):
        DensityEstimation(CNF(MLP(2))).attach(Points(torch.zeros(4, 3), torch.zeros(2, 3)))
    with pytest.raises(UserError, match="held_out"):
        Moons(held_out=1.5)


def test_short_training_with_every_setting_falls_and_draws(cli, tmp_path: Path):
    folder = tmp_path / "run"
    outcome = cli(
        "train", "experiment=cnf_moons", "data.samples=600", "field.hidden=16", "solver=rk4", "gradient=adjoint",
        "trainer.epochs=10", "trainer.batch_size=120", "trainer.eval_every=10", "trainer.ema=0",
        "run.tensorboard=false", f"run.dir={folder}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    result = json.loads((folder / "result.json").read_text())
    # independent normal coordinates of unit variance, where the flow starts, have log(2 pi) + 1 = 2.84 nats
    assert result["measures"]["test_loss"] < 2.7
    assert result["facts"]["mass_on_the_plane"] == pytest.approx(1, abs=0.02)
    assert result["measures"]["evaluations"] == 16
    assert "density.png" in result["plots"]
