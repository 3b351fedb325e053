"""Stiff neural ODEs: gradients through implicit steps, and where the explicit adjoint fails."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from odenets.data import LynxHare, RobertsonKinetics
from odenets.errors import UserError
from odenets.fields import MLP, Robertson, TimeScaled
from odenets.models import NeuralODE
from odenets.solvers import Adaptive, FixedStep, Scipy, SolveError, solve
from odenets.train.kinetics import KineticsFit


def task_on(times: tuple[float, ...], solver, gradient="autograd", last: float = 1.0) -> KineticsFit:
    """The same network for every solver, against Robertson's reaction with mild rates."""
    torch.manual_seed(0)
    field = TimeScaled(MLP(3, 8), times)
    task = KineticsFit(NeuralODE(field, solver, gradient, output="trajectory")).double()
    task.attach(RobertsonKinetics(points=4, first=0.02, last=last, k1=2.0, k2=300.0, k3=10.0).load())
    return task


def gradient_of(task: KineticsFit) -> Tensor:
    loss = task(progress=0.0)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(task.parameters()))])


def test_gradients_through_stiff_methods_are_those_of_many_tiny_explicit_steps():
    times = (1.0, 0.02, 0.5)
    exact = gradient_of(task_on(times, FixedStep("rk4", step_size=2e-3)))
    for method in ("rodas5p", "kvaerno5"):
        found = gradient_of(task_on(times, Adaptive(method, rtol=1e-7, atol=1e-9)))
        assert float((found - exact).norm() / exact.norm()) < 1e-5, method


def test_the_explicit_adjoint_loses_the_path_where_the_stiff_methods_do_not():
    """Backwards in time the fast component grows by exp(1000 t); along the kept path only the adjoint is solved for."""
    times, last = (1.0, 1e-3, 1.0), 0.1
    exact = gradient_of(task_on(times, FixedStep("rk4", step_size=4e-4), last=last))
    for gradient in ("autograd", "interpolating_adjoint"):
        stiff = task_on(times, Adaptive("rodas5p", rtol=1e-5, atol=1e-7), gradient, last=last)
        assert float((gradient_of(stiff) - exact).norm() / exact.norm()) < 1e-5, gradient
    with pytest.raises(SolveError, match="the adjoint's backward solve lost the forward solve's path"):
        gradient_of(task_on(times, Adaptive("dopri5", rtol=1e-5, atol=1e-7), "adjoint", last))


def test_a_short_training_brings_the_loss_down():
    task = task_on((0.5, 2e-3, 0.5), Adaptive("rodas5p", rtol=1e-3, atol=1e-5))
    optimizer = torch.optim.Adam(task.parameters(), lr=2e-2)
    losses = []
    for _ in range(8):
        loss = task(progress=0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


def test_the_loss_counts_every_species_over_its_range():
    class Doubled(nn.Module):
        """The given trajectory, the second species doubled."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x: Tensor, ts: Tensor) -> Tensor:
            factor = torch.stack([self.weight, 2 * self.weight, self.weight], -1)
            return (series.values / (series.values.amax(0) - series.values.amin(0)) * factor)[:, None]

    series = RobertsonKinetics(points=6).load()
    task = KineticsFit(Doubled())
    task.attach(series)
    second = series.values[:, 1] / series.values[:, 1].max()
    assert task(progress=0.0).item() == pytest.approx(float(second.square().sum()) / (3 * len(second)), rel=1e-9)
    assert task.evaluate()["largest_error_b"] == pytest.approx(1.0)
    assert task.evaluate()["largest_error_a"] == 0


def test_the_data_are_robertsons_solution():
    """Against scipy; b within the first millisecond is k1 t."""
    series = RobertsonKinetics(points=4).load()
    field = Robertson()
    ts = series.times.tolist()
    found = solve(field, series.values[0], ts, solver=Scipy("Radau", rtol=1e-7, atol=1e-12)).ys
    torch.testing.assert_close(series.values, found, rtol=1e-5, atol=1e-10)
    assert float(series.values[1, 1]) == pytest.approx(0.04 * 1e-4, rel=1e-2)


def test_bad_input_is_refused():
    with pytest.raises(UserError, match=r"task\.dim: expected 2"):
        KineticsFit(nn.Linear(1, 1)).attach(LynxHare().load())
    with pytest.raises(UserError, match="steps_per_epoch"):
        KineticsFit(nn.Linear(1, 1), steps_per_epoch=0)
    with pytest.raises(ValueError, match="0 < first < last"):
        RobertsonKinetics(first=2.0, last=1.0).load()
    with pytest.raises(ValueError, match="positive time scales"):
        TimeScaled(MLP(2), [1.0, 0.0])


def test_the_whole_experiment_runs_small(cli, tmp_path):
    small = ("data.points=4", "data.last=0.01", "task.steps_per_epoch=2", "trainer.epochs=1", "field.field.hidden=4")
    quiet = (f"run.dir={tmp_path}/run", "trainer.progress=false", "run.plots=false")
    assert cli("train", "experiment=stiff_rober", *small, *quiet).code == 0
    assert "scaled_rmse" in (tmp_path / "run" / "metrics.csv").read_text()
