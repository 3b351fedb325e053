"""Checkpoints: everything that decides the rest of a run, written atomically and read without running code."""

import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from odenets.errors import UserError

FORMAT = 1


def write_atomically(path: Path, write: Any) -> None:
    """Call `write(temporary_path)`, flush to disk and rename: `path` is the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists and dicts of them)."""
    write_atomically(path, lambda temporary: torch.save({"format": FORMAT, **state}, temporary))


def load(path: Path, module: nn.Module) -> dict[str, Any]:
    """Read a checkpoint made for `module`; UserError if it is missing, damaged or of another model."""
    if not path.is_file():
        raise UserError(f"{path}: no checkpoint to resume from; start a new run without run.resume=true")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError, KeyError) as error:
        raise UserError(
            f"{path}: expected a whole checkpoint, got a damaged or truncated file "
            f"({path.stat().st_size} bytes); restore it from a copy or start a new run"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path}: expected a checkpoint of format {FORMAT}, got another kind of file")
    check_same_model(path, state["model"], module)
    return state


def check_same_model(path: Path, weights: dict[str, Any], module: nn.Module) -> None:
    """UserError naming the first parameter in which `weights` differ from `module` by name or shape."""
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in weights.items()}
    for name in [*own, *theirs]:
        if own.get(name) != theirs.get(name):
            raise UserError(
                f"{path}: weights of another model: {name} is {_shape(theirs.get(name))} there and "
                f"{_shape(own.get(name))} in this configuration"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else f"of shape {list(shape)}"


def random_state() -> dict[str, Any]:
    """The states of torch's (all devices), numpy's and Python's generators, in types a safe load accepts."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
