"""Latent ODE: its bound against torch.distributions, what its encoder may see, and a short run."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from odenets.data import DampedOscillations, Moons
from odenets.errors import UserError
from odenets.fields import MLP
from odenets.models import CNF, LatentODE
from odenets.train.latent import LatentFit


def small(gradient: str = "autograd", solver: str = "dopri5") -> LatentODE:
    torch.manual_seed(0)
    return LatentODE(MLP(3, 8), latent=3, hidden=8, solver=solver, gradient=gradient)


def data():
    return DampedOscillations(series=6, held_out=4, grid=15).load()


def test_series_are_damped_oscillations_seen_at_their_own_times():
    series = data()
    assert bool((series.times.diff() > 0).all())
    assert int(series.train_mask.sum(1).unique()) == 7  # of 15
    assert len(series.train_mask.unique(dim=0)) == 6
    assert float(series.train[series.train_mask == 0].abs().max()) == 0
    assert torch.equal(data().train, series.train)
    assert not torch.equal(DampedOscillations(series=6, held_out=4, grid=15, seed=1).load().train, series.train)
    off = (series.test - series.true)[series.test_mask > 0]
    assert float(off.std()) == pytest.approx(0.05, rel=0.5)
    # x = e^(-t/10) cos(omega t + phase) up to a factor: every three values at t, t + s, t + 2 s obey
    # x(t) e^(-s/5) - 2 cos(omega s) e^(-s/10) x(t + s) + x(t + 2 s) = 0, so omega must come out in (1, 2)
    fine = DampedOscillations(series=1, held_out=3, grid=4000).load()
    t, x, s = fine.times, fine.true[..., 0].double(), 0.5
    at = [torch.searchsorted(t, torch.arange(1.0, 8.0, 0.5, dtype=t.dtype) + k * s) for k in range(3)]
    a, b, c = (x[:, i] for i in at)
    cosine = (a * math.exp(-s / 5) + c) / (2 * math.exp(-s / 10) * b)
    omega = cosine.median(1).values.acos() / s
    assert bool(((omega > 0.97) & (omega < 2.03)).all())


def test_the_loss_is_minus_the_evidence_lower_bound():
    task, series = LatentFit(small(), warm=0.5, dim=3), data()
    task.attach(series)
    values, mask = task.select(torch.arange(4))
    torch.manual_seed(7)
    found = task(values, mask, progress=0.25)
    torch.manual_seed(7)
    mean, log_scale = task.network.encode(series.times[: series.seen], values[:, : series.seen], mask[:, : series.seen])
    posterior = Normal(mean, log_scale.exp())
    decoded = task.network.decode(posterior.rsample(), series.times)
    likelihood = (Normal(decoded, series.noise).log_prob(values)[..., 0] * mask).sum(1)
    divergence = kl_divergence(posterior, Normal(torch.zeros_like(mean), 1.0)).sum(1)
    torch.testing.assert_close(found, (0.5 * divergence - likelihood).mean(), rtol=1e-4, atol=0)


def test_the_encoder_sees_observations_alone_and_how_long_apart_they_are():
    model, series = small(), data()
    times, values, mask = series.times, series.train, series.train_mask
    seen = model.encode(times, values, mask)
    hidden = values + 9.0 * (1 - mask[..., None])
    torch.testing.assert_close(model.encode(times, hidden, mask), seen)
    kept = mask[0] > 0  # one series without the times at which only others were observed
    alone = model.encode(times[kept], values[:1, kept], mask[:1, kept])
    # the same distances but for the last time of the grid, which the first series need not be observed at
    if not bool(kept[-1]):
        times = torch.cat([times[: int(kept.nonzero()[-1]) + 1]])
        seen = model.encode(times, values[:, : len(times)], mask[:, : len(times)])
    torch.testing.assert_close(alone.mean, seen.mean[:1])
    assert (
        float(
            (model.encode(1.1 * times, values[:, : len(times)], mask[:, : len(times)]).mean - seen.mean).detach().norm()
        )
        > 0
    )


def test_the_field_is_followed_from_time_zero():
    class Turning(nn.Module):
        def forward(self, t, z):
            return torch.stack([-z[..., 1], z[..., 0]], -1)

    model = LatentODE(Turning(), dim=2, latent=2, solver="dopri8")
    model.decoder = nn.Identity()
    times = torch.tensor([0.3, 2.0], dtype=torch.float64)
    found = model.decode(torch.tensor([[1.0, 0.0]]), times)[0]
    expected = torch.stack([times.cos(), times.sin()], -1).float()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("gradient", "tolerance"), [("checkpoint", 1e-5), ("adjoint", 1e-3), ("interpolating_adjoint", 1e-3)]
)
def test_gradients_by_other_methods(gradient, tolerance):
    found = []
    for how in ("autograd", gradient):
        task = LatentFit(small(how), dim=3)
        task.attach(data())
        torch.manual_seed(7)
        task(*task.select(torch.arange(4)), progress=1.0).backward()
        found.append(torch.cat([p.grad.flatten() for p in task.parameters()]))
    assert float((found[1] - found[0]).norm() / found[0].norm()) < tolerance


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="data=damped_oscillations, got Points"):
        LatentFit(small(), dim=3).attach(Moons(samples=20).load())
    with pytest.raises(UserError, match="model that encodes"):
        LatentFit(CNF(MLP(2, 4)))
    with pytest.raises(UserError, match="task.dim, 4, got 3"):
        LatentFit(small())
    with pytest.raises(ValueError, match="values \\[B, T, 1\\]"):
        small().encode(torch.arange(3.0), torch.ones(2, 3, 2), torch.ones(2, 3))
    with pytest.raises(UserError, match="grid >= 12"):
        DampedOscillations(grid=3)


def test_short_training_falls_and_reports_both_halves(cli, tmp_path: Path):
    folder = tmp_path / "run"
    outcome = cli(
        "train", "experiment=latent_ode", "gradient=checkpoint", "field.hidden=16", "data.series=40",
        "data.held_out=10", "data.grid=18", "data.span=4", "solver.step_size=0.5", "trainer.epochs=20",
        "trainer.batch_size=10", "trainer.eval_every=4", "trainer.ema=0", "run.tensorboard=false", f"run.dir={folder}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = (folder / "metrics.csv").read_text().splitlines()
    losses = [float(row.split(",")[rows[0].split(",").index("train_loss")]) for row in rows[1:]]
    assert losses[-1] < 0.8 * losses[0]
    result = json.loads((folder / "result.json").read_text())
    assert set(result["measures"]) == {"rmse_ahead", "rmse_seen", "divergence"}
    assert "series.png" in result["plots"]
