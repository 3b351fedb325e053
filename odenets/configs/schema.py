"""The typed part of the configuration: what every run has, whatever its model.

The other groups (`data`, `model`, `field`, `block`, `flow`, `branch`, `solver`, `gradient`, `task`, `optimizer`) hold
`_target_` nodes; their schema is the signature of the target, so a new block or field needs no entry here (see
`odenets.configs.build`).
"""

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from odenets.configs import sublayers
from odenets.errors import UserError, did_you_mean


class Schedule(Enum):
    """Learning rate over the run: constant, cosine to zero after a linear warm-up, or one cycle."""

    constant = "constant"
    cosine = "cosine"
    one_cycle = "one_cycle"


@dataclass
class TrainerConf:
    """The loop and the machine it runs on (the last block is passed to Lightning Fabric)."""

    epochs: int = 20
    batch_size: int = 64
    eval_every: int = 1  # epochs
    checkpoint_every: int = 1  # epochs
    schedule: Schedule = Schedule.cosine
    warmup: float = 0.1  # fraction of the run
    clip_norm: float | None = 1.0
    ema: float = 0.0  # decay of the averaged weights per step; 0 switches it off
    progress: bool = True
    threads: int | None = None  # torch CPU threads; null leaves torch's choice

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"


@dataclass
class RunConf:
    """Where the run lives and how it is written."""

    dir: str | None = None  # null: <root>/<experiment name>/<timestamp>
    root: str = "runs"
    resume: bool = False
    tensorboard: bool = True  # written when TensorBoard is installed
    plots: bool = True
    allow_targets: list[str] = field(default_factory=list)  # packages outside odenets that configs may call


@dataclass
class Config:
    """The whole configuration of `odenets train`."""

    name: str = ""
    seed: int = 0
    task: Any = None
    data: Any = None
    model: Any = None
    field: Any = None
    block: Any = None
    flow: Any = None  # of block=flow
    branch: Any = None
    branch2: Any = None  # the second branch, for blocks and stacks that have two
    scheme: Any = None
    width: Any = None  # size of the state's feature dimension
    axis: int = 1  # where the state has its features: 1 for images, -1 for sequences
    solver: Any = None
    gradient: Any = None
    optimizer: Any = None
    trainer: TrainerConf = dataclasses.field(default_factory=TrainerConf)
    run: RunConf = dataclasses.field(default_factory=RunConf)


TYPED = {"": Config, "trainer": TrainerConf, "run": RunConf}


def register() -> None:
    """Make the schema known to Hydra under the name `schema`, first in the defaults list of train.yaml."""
    sublayers.register()
    ConfigStore.instance().store(name="schema", node=Config, provider="odenets")


def refuse_extras(cfg: DictConfig) -> None:
    """Raise UserError for a key no schema knows; Hydra lets `+trainer.epochz=3` and user files add any key."""
    for path, schema in TYPED.items():
        known = {f.name for f in dataclasses.fields(schema)}
        node = cfg[path] if path else cfg
        for key in map(str, node):
            if key not in known:
                full = f"{path}.{key}" if path else key
                raise UserError(f"{full}: no such key; {did_you_mean(key, known)}")


def check_values(cfg: DictConfig) -> None:
    """Raise UserError for a value of the right type that cannot be meant."""
    trainer = cfg.trainer
    if trainer.epochs < 0:
        raise UserError(f"trainer.epochs: expected at least 0 (0: nothing is trained), got {trainer.epochs}")
    for key in ("batch_size", "eval_every", "checkpoint_every", "devices", "num_nodes"):
        if trainer[key] < 1:
            raise UserError(f"trainer.{key}: expected at least 1, got {trainer[key]}")
    if trainer.threads is not None and trainer.threads < 1:
        raise UserError(f"trainer.threads: expected at least 1 or null, got {trainer.threads}")
    if trainer.clip_norm is not None and not trainer.clip_norm > 0:
        raise UserError(f"trainer.clip_norm: expected more than 0 or null, got {trainer.clip_norm}")
    for key in ("warmup", "ema"):
        if not 0 <= trainer[key] < 1:
            raise UserError(f"trainer.{key}: expected 0 <= {key} < 1, got {trainer[key]}")
