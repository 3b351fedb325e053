"""The loop: learning, stopping with the cause, stopping on request."""

import os
import signal
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from odenets.errors import Interrupted, TrainingStopped
from odenets.train.ema import Averaged
from odenets.train.loop import Hooks, Parts, Progress, epoch_order, fit, steps_per_epoch, watch_for_spikes
from odenets.train.task import Task


class Parabola(Task):
    """Minimise (w - 3)^2; `poison` replaces the loss of one step (counted from 0)."""

    headline = ("distance",)

    def __init__(self, poison: dict[int, float] | None = None, steep: bool = False) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))
        self.poison = poison or {}
        self.steep = steep
        self.calls = 0

    def attach(self, data: Any) -> None: ...

    def order(self, generator: torch.Generator, batch_size: int, rank: int, world: int) -> list[Tensor]:
        return list(torch.randperm(4, generator=generator)[:, None])

    def select(self, index: Tensor) -> tuple[Tensor, ...]:
        return ()

    def forward(self, progress: float) -> Tensor:
        self.calls += 1
        loss = (self.w - 3.0).square()
        if self.steep:  # finite at 0 with an infinite slope
            return (self.w * 0.0).sqrt() + loss
        return loss * self.poison.get(self.calls - 1, 1.0)

    def evaluate(self) -> dict[str, float]:
        return {"distance": float((self.w - 3.0).abs().detach())}


def parts(task: Task, **trainer: Any) -> Parts:
    fabric = Fabric(accelerator="cpu", devices=1)
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
    module, wrapped = fabric.setup(task, optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    settings = {"epochs": 10, "batch_size": 1, "eval_every": 2, "checkpoint_every": 5, "clip_norm": None}
    settings |= {"precision": "32-true"} | trainer
    return Parts(fabric, task, module, wrapped, schedule, Averaged(task, 0.0), 0, settings)


class Recorder:
    """Hooks that remember what happened."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.saves = 0

    def hooks(self) -> Hooks:
        return Hooks(self.rows.append, self._save, lambda done, latest: None)

    def _save(self) -> None:
        self.saves += 1


def test_gradient_descent_follows_its_closed_form():
    task, record = Parabola(), Recorder()
    fit(parts(task), Progress(), record.hooks())
    # w_k = 3 (1 - 0.8^k) after k steps of lr 0.1
    assert task.w.item() == pytest.approx(3 * (1 - 0.8**40), rel=1e-5)
    assert [row["epoch"] for row in record.rows] == [2, 4, 6, 8, 10]
    assert record.rows[0]["train_loss"] == pytest.approx(sum(9 * 0.8 ** (2 * k) for k in range(8)) / 8, rel=1e-5)
    assert record.saves == 2


def test_clipping_limits_the_first_step():
    task = Parabola()
    progress = Progress(step=3)  # one step to go in one epoch of four
    fit(parts(task, epochs=1, clip_norm=1.0), progress, Recorder().hooks())
    assert task.w.item() == pytest.approx(0.1, rel=1e-4)  # lr 0.1 times a gradient of norm 1 instead of 6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_the_cause_and_saves_nothing(value: float):
    task, record = Parabola(poison={5: value}), Recorder()
    with pytest.raises(TrainingStopped, match=rf"the loss became {value} at step 6 .*weights still finite.*lr 0.1"):
        fit(parts(task, checkpoint_every=1), Progress(), record.hooks())
    assert record.saves == 1  # the end of the first epoch, before the failure
    assert bool(task.w.isfinite())


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights():
    task = Parabola(steep=True)
    with pytest.raises(TrainingStopped, match="the gradient became nan at a finite loss of 9"):
        fit(parts(task), Progress(), Recorder().hooks())
    assert task.w.item() == 0.0


def test_a_signal_saves_after_the_step_and_stops():
    task, record = Parabola(), Recorder()
    hooks = record.hooks()
    hooks.show = lambda done, latest: os.kill(os.getpid(), signal.SIGINT) if task.calls == 7 else None
    progress = Progress()
    with pytest.raises(Interrupted, match="after step 7 of 40 and saved"):
        fit(parts(task, checkpoint_every=100), progress, hooks)
    assert (progress.step, record.saves) == (7, 1)


def test_the_order_of_the_data_depends_on_seed_and_epoch_only():
    first = parts(Parabola())
    assert steps_per_epoch(first) == 4
    orders = [torch.cat(epoch_order(first, epoch)).tolist() for epoch in range(6)]
    assert orders == [torch.cat(epoch_order(parts(Parabola()), epoch)).tolist() for epoch in range(6)]
    assert len({tuple(order) for order in orders}) > 1


def test_a_spike_is_counted_once_per_step_and_does_not_hide_the_next():
    losses = 1.0 + 0.1 * torch.randn(100, generator=torch.Generator().manual_seed(0))
    counts = {}
    for name, at in (("none", {}), ("two", {40: 5.0, 43: 4.0}), ("early", {5: 5.0})):
        progress = Progress()
        for i, loss in enumerate(losses.tolist()):
            progress.step += 1
            watch_for_spikes(progress, at.get(i, loss))
        counts[name] = progress.spikes
    assert counts == {"none": 0, "two": 2, "early": 0}
