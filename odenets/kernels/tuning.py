"""Tile sizes of the kernels: the first of a short list, or, where tuning is switched on, the fastest of it.

Off unless the environment has ODENETS_TUNE=1 or the code is inside `tuned()`. Then every operator times its list once
per size and dtype on the GPU at hand, on the tensors of that call; the choice is kept in the process, and in
`tuning.json` in the user's cache folder (ODENETS_CACHE, or $XDG_CACHE_HOME/odenets) per GPU and version of Triton.
Tiles change the order of sums, not what is summed: results differ by rounding, and are the same for the same tiles.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

Tiles = dict[str, int]
Result = TypeVar("Result")
Timer = Callable[[Callable[[], object]], float]
_log = logging.getLogger(__name__)
_switched = [os.environ.get("ODENETS_TUNE", "0") == "1"]  # the innermost `tuned` is last
_tuners: dict[torch.device, Tuner] = {}


@contextlib.contextmanager
def tuned(on: bool = True) -> Iterator[None]:
    """Inside, tile sizes are tuned on CUDA devices (or, with on=False, are not)."""
    _switched.append(on)
    try:
        yield
    finally:
        _switched.pop()


def run(
    operator: str, x: Tensor, sizes: Sequence[int], candidates: Sequence[Tiles], launch: Callable[[Tiles], Result]
) -> Result:
    """launch(tiles) with the first of the candidates, or with the fastest where tuning is on and x is on a GPU.

    Args:
        operator: its name, a part of the key.
        x: the tensor that the device and the dtype are read off.
        sizes: what else the choice depends on; not the number of tokens.
        candidates: tile sizes, the one to take without tuning first.
        launch: runs the kernel with these tiles; may be called many times, and writes the same each time.
    """
    if not _switched[-1] or len(candidates) < 2 or not x.is_cuda or torch.cuda.is_current_stream_capturing():
        return launch(candidates[0])
    if x.device not in _tuners:
        _tuners[x.device] = Tuner(_machine(x.device), _cache_file(), _milliseconds)
    key = " ".join([operator, *map(str, sizes), str(x.dtype).removeprefix("torch.")])
    return launch(_tuners[x.device].select(key, candidates, launch))


def matrices(n: int, elements: int) -> list[Tiles]:
    """Candidates for n x n matrices in registers, padded to M x M, those of B tokens a program: `elements` numbers with
    four warps, then fewer numbers, or fewer or more of them a thread."""
    M = 1 << (n - 1).bit_length()
    return [
        {"N": n, "M": M, "B": max(1, held // M**2), "num_warps": warps}
        for held, warps in (
            (elements, 4), (elements // 2, 4), (elements // 2, 2), (elements // 4, 1), (elements, 8),
        )
    ]  # fmt: skip


@dataclass
class Tuner:
    """The choices on one GPU.

    Attributes:
        machine: names GPU and version of Triton in the file.
        path: the file; None keeps the choices in the process alone.
        timer: how long a call takes.
        choices: by key.
    """

    machine: str
    path: Path | None
    timer: Timer
    choices: dict[str, Tiles] = field(default_factory=dict)

    def select(self, key: str, candidates: Sequence[Tiles], launch: Callable[[Tiles], object]) -> Tiles:
        """The tiles for this key: remembered, read from the file, or the fastest now. Candidates that do not run are
        left out; if none runs, or the clock fails, the first is taken."""
        if key not in self.choices:
            saved = [tiles for tiles in candidates if tiles == self._saved().get(key)]
            self.choices[key] = saved[0] if saved else self._fastest(key, candidates, launch)
        return self.choices[key]

    def _fastest(self, key: str, candidates: Sequence[Tiles], launch: Callable[[Tiles], object]) -> Tiles:
        times = []
        for tiles in candidates:
            try:
                times.append(self.timer(functools.partial(launch, tiles)))
            except Exception as error:  # too many registers or too much shared memory: whatever it is, not this one
                _log.debug("%s with %s does not run: %s", key, tiles, error)
                times.append(math.inf)
        best = min(range(len(times)), key=times.__getitem__)
        if not math.isfinite(times[best]):
            return candidates[0]
        _log.info("%s: %s, %.3g of %.3g ms", key, candidates[best], times[best], times[0])
        self._save(key, candidates[best])
        return candidates[best]

    def _saved(self) -> dict[str, Any]:
        return _read(self.path).get(self.machine, {})

    def _save(self, key: str, tiles: Tiles) -> None:
        """Adds the choice to the file, which other processes may write as well; without a file it is only kept here."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            table = _read(self.path)  # as it is now
            table.setdefault(self.machine, {})[key] = tiles
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, delete=False) as file:
                json.dump(table, file, indent=1, sort_keys=True)
            os.replace(file.name, self.path)
        except OSError as error:
            _log.warning("tile sizes could not be written to %s: %s", self.path, error)


def _read(path: Path | None) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text()) if path is not None else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _log.warning("tile sizes in %s cannot be read, they are tuned again: %s", path, error)
        return {}
    whole = isinstance(table, dict) and all(isinstance(entry, dict) for entry in table.values())
    return table if whole else {}


def _machine(device: torch.device) -> str:
    import triton

    return f"{torch.cuda.get_device_name(device)}, triton {triton.__version__}"


def _cache_file() -> Path:
    folder = os.environ.get("ODENETS_CACHE")
    if folder is None:
        folder = str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "odenets")
    return Path(folder) / "tuning.json"


def _milliseconds(call: Callable[[], object]) -> float:
    """The median of a few calls on the current CUDA device, compiled before."""
    for _ in range(3):
        call()
    times = []
    for _ in range(7):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)
