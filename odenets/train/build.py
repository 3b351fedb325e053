"""Build what a configuration describes: Fabric, data, task, optimizer; and the task of a finished run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from odenets.configs.build import check_targets, instantiate, plain
from odenets.errors import UserError, one_line
from odenets.solvers import SolveError
from odenets.train import checkpoint, export
from odenets.train.ema import Averaged
from odenets.train.loop import Parts, epoch_order, steps_per_epoch
from odenets.train.runfolder import RunFolder
from odenets.train.schedule import factor
from odenets.train.task import Task


def make_fabric(trainer: dict[str, Any]) -> Fabric:
    """Fabric as the trainer's keys say; UserError if this machine lacks what they ask for."""
    if trainer["threads"] is not None:
        torch.set_num_threads(trainer["threads"])
    keys = ("accelerator", "devices", "num_nodes", "strategy", "precision")
    try:
        fabric = Fabric(**{key: trainer[key] for key in keys})
    except Exception as error:  # Fabric raises many types for a machine that lacks what was asked for
        given = ", ".join(f"{key}={trainer[key]}" for key in keys)
        raise UserError(f"trainer: Fabric cannot start with {given}: {one_line(error)}") from error
    return fabric


def build(fabric: Fabric, config: dict[str, Any]) -> tuple[Task, Parts]:
    """The task with its data and what the loop needs, seeded by the configuration; UserError if they do not fit."""
    allow = config["run"]["allow_targets"]
    fabric.seed_everything(config["seed"] + fabric.global_rank, verbose=False)
    data = instantiate(config["data"], "data", allow).load()
    task = instantiate(config["task"], "task", allow)
    if not isinstance(task, Task):
        raise UserError(f"task: expected an odenets.train.task.Task, got {type(task).__name__}")
    task.to(fabric.device)
    task.attach(data.to(fabric.device))
    trainer = config["trainer"]
    optimizer = instantiate(config["optimizer"], "optimizer", allow)(params=task.parameters())
    module, wrapped = fabric.setup(task, optimizer)
    averaged = Averaged(task, trainer["ema"])
    parts = Parts(fabric, task, module, wrapped, None, averaged, config["seed"], trainer)
    total = steps_per_epoch(parts) * trainer["epochs"]
    parts.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor(trainer["schedule"], total, trainer["warmup"]))
    return task, parts


def rehearse(parts: Parts) -> None:
    """One loss before any work: combinations that the parts refuse only when they meet are bad input as well."""
    states = checkpoint.random_state()
    parts.task.eval()
    try:
        parts.task(*parts.task.select(epoch_order(parts, 0)[0]), progress=0.0)
    except SolveError as error:
        raise UserError(f"the first solve fails: {one_line(error)}") from error
    except ValueError as error:
        raise UserError(f"these choices do not fit together: {one_line(error)}") from error
    finally:
        parts.task.train()
        checkpoint.set_random_state(states)


def load_run(run: str | Path, allow: Sequence[str] = ()) -> tuple[dict[str, Any], Task, Parts]:
    """Configuration, task with trained weights, and parts of a finished run, on one device; UserError if it is none.

    `allow` names packages outside odenets whose classes may be called; what the folder itself allows does not count.
    """
    folder = RunFolder(Path(run))
    config = plain(folder.read_config())
    config["run"]["allow_targets"] = list(allow)
    check_targets(config, config["run"]["allow_targets"])
    if not folder.weights.is_file():
        raise UserError(f"{run}: has no model.safetensors; finish it: odenets train run.dir={run} run.resume=true")
    config["trainer"] |= {"devices": 1, "num_nodes": 1, "strategy": "auto", "ema": 0.0}
    task, parts = build(make_fabric(config["trainer"]), config)
    export.load(folder.weights, task)
    return config, task, parts
