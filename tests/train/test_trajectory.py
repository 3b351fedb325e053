"""Trajectory fitting against closed forms."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from odenets.data import LynxHare, Series
from odenets.errors import UserError
from odenets.train.trajectory import TrajectoryFit


class Growth(nn.Module):
    """The exact flow of x' = r x, one rate per component."""

    def __init__(self, *rates: float) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.tensor(rates))

    def forward(self, x: Tensor, ts: Tensor) -> Tensor:
        return x * (ts[:, None, None] * self.rates).exp()


def exponential(*rates: float) -> Series:
    data = LynxHare().load()
    return replace(data, values=2.0 * (data.times[:, None] * torch.tensor(rates)).exp())


def test_the_true_flow_has_no_error_and_the_facts_give_the_start():
    task = TrajectoryFit(Growth(0.1, -0.2), scaling="none")
    task.attach(exponential(0.1, -0.2))
    measures = task.evaluate()
    assert measures["log_rmse"] < 1e-5
    assert measures["log_r2"] == pytest.approx(1.0, abs=1e-6)
    assert task.facts() == pytest.approx({"hare_at_start": 2.0, "lynx_at_start": 2.0}, rel=1e-5)


def test_the_loss_is_the_mean_squared_log_error_over_the_horizon():
    task = TrajectoryFit(Growth(0.1, 0.1), scaling="none", first_horizon=3, growth=1.0)
    task.attach(exponential(0.1, 0.2))
    # log errors of the second component at times 0, 1, 2 are 0, 0.1, 0.2; the first component has none
    assert float(task(progress=0.0).detach()) == pytest.approx((0.1**2 + 0.2**2) / 6, rel=1e-4)


def test_the_horizon_grows_to_all_points_and_stays():
    task = TrajectoryFit(Growth(0.1, 0.1), scaling="none", first_horizon=5, growth=0.5)
    task.attach(LynxHare().load())
    assert [task.horizon(p) for p in (0.0, 0.25, 0.5, 0.9)] == [5, 13, 21, 21]
    task.growth = 0.0
    assert task.horizon(0.0) == 21


def test_log_scaling_gives_the_network_standardised_logarithms():
    seen: list[Tensor] = []

    class Still(nn.Module):
        def forward(self, x: Tensor, ts: Tensor) -> Tensor:
            seen.append(x.detach().clone())
            return x.expand(len(ts), *x.shape)

    task = TrajectoryFit(Still(), scaling="log")
    data = LynxHare().load()
    task.attach(data)
    task(progress=1.0)
    logs = data.values.log()
    torch.testing.assert_close(seen[0][0], (logs[0] - logs.mean(0)) / logs.std(0))
    # a constant at the first point: its error is known
    expected = (logs - logs[0]).square().mean().sqrt()
    assert task.evaluate()["log_rmse"] == pytest.approx(float(expected), rel=1e-5)


def test_states_that_leave_the_positive_side_cost_much_but_stay_finite():
    class Negative(nn.Module):
        def forward(self, x: Tensor, ts: Tensor) -> Tensor:
            return -x.expand(len(ts), *x.shape)

    task = TrajectoryFit(Negative(), scaling="none")
    task.attach(LynxHare().load())
    loss = float(task(progress=1.0).detach())
    assert math.isfinite(loss)
    assert loss > 50


@pytest.mark.parametrize("change", [{"growth": 1.5}, {"first_horizon": 1}, {"steps_per_epoch": 0}])
def test_sizes_are_checked(change: dict[str, float]):
    with pytest.raises(UserError, match=next(iter(change))):
        TrajectoryFit(nn.Identity(), **change)  # type: ignore[arg-type]


def test_the_dimension_of_the_data_is_checked():
    with pytest.raises(UserError, match=r"task\.dim: expected 2"):
        TrajectoryFit(nn.Identity(), dim=3).attach(LynxHare().load())
