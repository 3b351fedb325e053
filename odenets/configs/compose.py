"""Compose the configuration with Hydra, check it, and hand it to the training task."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from odenets.configs import schema
from odenets.configs.catalog import groups
from odenets.configs.explain import CONFIG_ERRORS, explain
from odenets.configs.own import take_own_classes
from odenets.errors import Interrupted, TrainingStopped, UserError, did_you_mean

OPTIONS = ("-m", "--multirun", "--cfg", "-c", "--resolve", "--config-dir", "-cd", "--package", "-p", "--info", "-i")


def run_hydra(
    overrides: list[str], task: "Callable[[list[str], list[str], str | None], TrainTask] | None" = None
) -> None:
    """Run `odenets train` with Hydra overrides and options; UserError for whatever is wrong with them.

    `task` makes what Hydra calls with each composed configuration: training, unless another is given.
    """
    schema.register()
    config_dir = _config_dir(overrides)
    overrides = take_own_classes(overrides)
    command = [sys.argv[0], "train"]
    with _argv([sys.argv[0], *overrides]), _full_errors():
        try:
            hydra.main(version_base="1.3", config_path=".", config_name="train")(
                (task or TrainTask)(command, overrides, config_dir)
            )()
        except Outcome as outcome:
            raise outcome.error from outcome.error.__cause__
        except CONFIG_ERRORS as error:
            raise UserError(explain(error, config_dir)) from error


class Outcome(BaseException):
    """Carries an expected error through Hydra, which prints lines of its own for every Exception."""

    def __init__(self, error: UserError | TrainingStopped | Interrupted) -> None:
        super().__init__(str(error))
        self.error = error


class TrainTask:
    """What Hydra calls with each composed configuration."""

    __module__ = "odenets.configs.compose"  # Hydra finds the config folder through it

    def __init__(self, command: list[str], words: list[str], config_dir: str | None) -> None:
        self.command = command
        self.words = words  # as typed, a swept key with all its values
        self.config_dir = config_dir
        self.__name__ = self.__qualname__ = "train"

    def __call__(self, cfg: DictConfig) -> float:
        try:
            return self.run(cfg)
        except OmegaConfBaseException as error:  # an interpolation that this choice of groups cannot resolve
            raise Outcome(UserError(explain(error, self.config_dir))) from error
        except (UserError, TrainingStopped, Interrupted) as error:
            raise Outcome(error) from error

    def run(self, cfg: DictConfig) -> float:
        """Check the configuration, choose the folder, train."""
        schema.refuse_extras(cfg)
        schema.check_values(cfg)
        job = HydraConfig.get()
        typed = list(job.overrides.task)
        if cfg.run.resume and cfg.run.dir is None:
            raise UserError("run.resume=true: name the run to go on with by run.dir=<folder>")
        if not cfg.name and not cfg.run.resume:
            options = ", ".join(groups(self.config_dir).get("experiment", ()))
            raise UserError(f"choose an experiment: odenets train experiment=<one of {options}>")
        if job.mode == RunMode.MULTIRUN and cfg.run.dir is None:
            cfg.run.dir = os.path.join(job.sweep.dir, _job_folder(job.job.num, _swept(typed, self.words)))
        return self.start(cfg, typed, again=[f"run.dir={cfg.run.dir}"] if job.mode == RunMode.MULTIRUN else [])

    def start(self, cfg: DictConfig, typed: list[str], again: list[str], part: str | None = None) -> float:
        """Train; `again` are the words that Fabric's other processes need beside `typed`: they get this one job."""
        from odenets.train.main import train  # torch and Fabric load here, after every cheap check

        folder = ["--config-dir", self.config_dir] if self.config_dir else []
        with _argv([*self.command, *typed, *again, *folder]), _outside_hydra():
            return train(cfg, typed, part)


def _swept(job: list[str], words: list[str]) -> list[str]:
    """The overrides of one job whose keys were typed with several values."""
    keys = {key for key, _, value in (word.partition("=") for word in words) if "," in value or "(" in value}
    return [word for word in job if word.partition("=")[0] in keys]


def _job_folder(number: int, swept: list[str]) -> str:
    safe = "".join(c if c.isalnum() or c in "=.,-_" else "-" for c in ",".join(swept))
    return f"{number}_{safe}"[:120]


def _config_dir(overrides: list[str]) -> str | None:
    folder = None
    _refuse_unknown_options(overrides)
    for i, word in enumerate(overrides):
        if word in ("--config-dir", "-cd"):
            folder = overrides[i + 1] if i + 1 < len(overrides) else None
        elif word.startswith("--config-dir="):
            folder = word.partition("=")[2]
    if folder is not None and not os.path.isdir(folder):
        raise UserError(f"--config-dir {folder}: no such folder")
    return folder


def _refuse_unknown_options(overrides: list[str]) -> None:
    for word in overrides:
        if word.startswith("-") and word.partition("=")[0] not in OPTIONS:
            raise UserError(f"{word}: no such option of train; {did_you_mean(word, OPTIONS)} (see odenets --help)")


@contextlib.contextmanager
def _argv(words: list[str]) -> Iterator[None]:
    old, sys.argv = sys.argv, words
    try:
        yield
    finally:
        sys.argv = old


@contextlib.contextmanager
def _full_errors() -> Iterator[None]:
    """Let Hydra raise its errors instead of printing them."""
    old = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if old is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = old


@contextlib.contextmanager
def _outside_hydra() -> Iterator[None]:
    """Hide Hydra from Fabric, which would otherwise start its other processes with overrides of its own."""
    instance = HydraConfig.instance()
    old, instance.cfg = instance.cfg, None
    try:
        yield
    finally:
        instance.cfg = old
