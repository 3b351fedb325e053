"""The folder of one run: its files, and the checks before anything is written."""

import json
import math
import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from odenets.errors import UserError
from odenets.train.checkpoint import write_atomically


class RunFolder:
    """Names of the files in a run folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.versions = path / "versions.json"
        self.metrics = path / "metrics.csv"
        self.result = path / "result.json"
        self.weights = path / "model.safetensors"
        self.checkpoint = path / "checkpoint.pt"

    def read_config(self) -> DictConfig:
        """The configuration the run was started with; UserError if the folder is no run."""
        if not self.path.is_dir():
            raise UserError(f"{self.path}: no such run folder")
        if not self.config.is_file():
            raise UserError(f"{self.path}: not a run folder: it has no config.yaml")
        cfg = OmegaConf.load(self.config)
        assert isinstance(cfg, DictConfig)
        return cfg

    def write_json(self, path: Path, value: dict[str, Any]) -> None:
        """Write `value` whole or not at all; numbers that are not finite as null, for JSON knows none."""
        text = json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def choose(directory: str | None, root: str, name: str) -> Path:
    """`directory`, or a fresh `<root>/<name>/<timestamp>`."""
    if directory is not None:
        return Path(directory)
    base = Path(root) / name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    path, number = base, 2
    while path.exists():
        path, number = base.with_name(f"{base.name}-{number}"), number + 1
    return path


def check_new(path: Path) -> None:
    """UserError if `path` holds something already or cannot be made; changes nothing."""
    try:
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:
        raise _cannot(path, "look into this folder", error) from error
    if taken:
        raise UserError(f"{path}: already holds a run; continue it with run.resume=true, or choose another run.dir")
    parent = path.absolute()
    while not os.path.lexists(parent):
        parent = parent.parent
    if not parent.is_dir():
        raise UserError(f"run.dir={path}: cannot make this folder: {parent} is not a folder; choose another run.dir")
    check_writable(parent)


def create(path: Path) -> RunFolder:
    """Make a new run folder that `check_new` found possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot(path, "make this folder", error) from error
    check_writable(path)
    return RunFolder(path)


def check_writable(path: Path) -> None:
    """UserError unless a file can be written in `path`."""
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise _cannot(path, "write here", error) from error


def _cannot(path: Path, what: str, error: OSError) -> UserError:
    return UserError(f"run.dir={path}: cannot {what}: {os.strerror(error.errno or 0)}; choose another run.dir")


def differences(saved: Any, wanted: Any, path: str = "") -> list[str]:
    """Dotted keys in which two plain configurations differ."""
    if isinstance(saved, dict) and isinstance(wanted, dict):
        keys = [*saved, *(key for key in wanted if key not in saved)]
        return [
            line
            for key in keys
            for line in differences(saved.get(key), wanted.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if saved == wanted else [f"{path} ({saved} -> {wanted})"]
