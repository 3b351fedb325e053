"""The training loop: short, resumable at any step, and stopped with the cause when a number is not finite."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from odenets.errors import Interrupted, TrainingStopped
from odenets.solvers import SolveError
from odenets.train.ema import Averaged
from odenets.train.interrupt import StopRequest
from odenets.train.task import Task


@dataclass
class Progress:
    """Where a run is. Saved with the checkpoint, except `start`."""

    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0  # since the last row of the log
    loss_count: int = 0
    spikes: int = 0  # steps whose loss stood far above the recent ones
    level: float = 0.0  # running mean of the loss, and of its distance from that mean
    deviation: float = 0.0


@dataclass
class Parts:
    """What the loop works with: all of it made by `odenets.train.main`."""

    fabric: Fabric
    task: Task
    module: nn.Module  # the task as Fabric wraps it
    optimizer: Any
    schedule: Any
    averaged: Averaged
    seed: int
    trainer: dict[str, Any]


@dataclass
class Hooks:
    """What happens at the end of an epoch: `log(row)`, `save()`, `show(epochs done, latest measures)`."""

    log: Callable[[dict[str, float]], None]
    save: Callable[[], None]
    show: Callable[[float, dict[str, float]], None]


def steps_per_epoch(parts: Parts) -> int:
    """Optimizer steps in an epoch: the same in each."""
    return len(epoch_order(parts, 0))


def fit(parts: Parts, progress: Progress, hooks: Hooks) -> None:
    """Train from `progress.step` to the end.

    Raises TrainingStopped for a loss or gradient that is not finite (the last checkpoint stays as it was) and
    Interrupted, after saving, when a signal asked to stop.
    """
    per_epoch = steps_per_epoch(parts)
    total = per_epoch * parts.trainer["epochs"]
    began = time.perf_counter() - progress.seconds
    latest: dict[str, float] = {}
    order: list[Tensor] = []
    with StopRequest() as stop:
        while progress.step < total:
            epoch, position = divmod(progress.step, per_epoch)
            if position == 0 or not order:
                order = epoch_order(parts, epoch)
            lr = parts.optimizer.param_groups[0]["lr"]
            loss = _step(parts, order[position], progress, total)
            progress.step += 1
            progress.loss_sum += loss
            progress.loss_count += 1
            watch_for_spikes(progress, loss)
            progress.seconds = time.perf_counter() - began
            done = progress.step // per_epoch
            if progress.step % per_epoch == 0:
                last = progress.step == total
                if last or done % parts.trainer["eval_every"] == 0:
                    row, latest = _measure(parts, progress, done, lr)
                    hooks.log(row)
                if last or done % parts.trainer["checkpoint_every"] == 0:
                    hooks.save()
            hooks.show(progress.step / per_epoch, latest)
            if stop.requested and progress.step < total:
                hooks.save()
                raise Interrupted(f"stopped after step {progress.step} of {total} and saved")


def watch_for_spikes(progress: Progress, loss: float) -> None:
    """Count a loss more than 6 mean deviations above the running mean, from step 20 on, in `progress.spikes`."""
    if progress.step == 1:
        progress.level = loss
    limit = progress.level + 6 * progress.deviation
    if progress.step > 20:
        progress.spikes += loss > limit
        loss = min(loss, limit)  # a spike must not hide the next one
    progress.deviation += 0.05 * (abs(loss - progress.level) - progress.deviation)
    progress.level += 0.05 * (loss - progress.level)


def measure(parts: Parts) -> dict[str, float]:
    """The task's measures with the averaged weights (the network's own where no average is kept)."""
    parts.module.eval()
    with parts.averaged.applied(), parts.fabric.autocast(), torch.no_grad():
        measures = parts.task.evaluate()
    parts.module.train()
    return measures


def epoch_order(parts: Parts, epoch: int) -> list[Tensor]:
    """The index tensors of one epoch for this process."""
    # A function of seed and epoch alone: a resumed run repeats it without having to save it.
    generator = torch.Generator().manual_seed((parts.seed * 1_000_003 + epoch) % 2**63)
    fabric = parts.fabric
    return parts.task.order(generator, parts.trainer["batch_size"], fabric.global_rank, fabric.world_size)


def _step(parts: Parts, index: Tensor, progress: Progress, total: int) -> float:
    parts.optimizer.zero_grad(set_to_none=True)
    try:
        loss = parts.module(*parts.task.select(index), progress=progress.step / total)
    except SolveError as error:
        raise TrainingStopped(_cause(f"the solve failed: {error}", parts, progress)) from error
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingStopped(_cause(f"the loss became {value}", parts, progress))
    parts.fabric.backward(loss)
    clip = parts.trainer["clip_norm"]
    norm = parts.fabric.clip_gradients(
        parts.module, parts.optimizer, max_norm=clip or math.inf, error_if_nonfinite=False
    )
    # With fp16 the gradient scaler skips steps that overflow: that is its way of working, not a failure.
    if parts.trainer["precision"] != "16-mixed" and norm is not None and not math.isfinite(float(norm)):
        raise TrainingStopped(
            _cause(f"the gradient became {float(norm)} at a finite loss of {value:.4g}", parts, progress)
        )
    parts.optimizer.step()
    parts.schedule.step()
    parts.averaged.update(progress.step + 1)
    return value


def _measure(parts: Parts, progress: Progress, epoch: int, lr: float) -> tuple[dict[str, float], dict[str, float]]:
    train_loss = progress.loss_sum / progress.loss_count
    measures = measure(parts)
    progress.loss_sum, progress.loss_count = 0.0, 0
    row = {
        "epoch": epoch,
        "step": progress.step,
        "seconds": round(progress.seconds, 3),
        "lr": lr,
        "train_loss": train_loss,
    }
    return row | measures, {"train_loss": train_loss} | {key: measures[key] for key in parts.task.headline[:1]}


def _cause(what: str, parts: Parts, progress: Progress) -> str:
    bad = [name for name, p in parts.task.named_parameters() if not bool(p.detach().isfinite().all())]
    weights = (
        f"weights not finite either, first {bad[0]}" if bad else "weights still finite: the flow itself overflowed"
    )
    mean = f"{progress.loss_sum / progress.loss_count:.4g}" if progress.loss_count else "none yet"
    lr = parts.optimizer.param_groups[0]["lr"]
    return f"{what} at step {progress.step + 1} ({weights}; mean loss before {mean}; lr {lr:.3g})"
