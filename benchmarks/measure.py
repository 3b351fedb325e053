"""Counting operations and host synchronisations, timing several functions fairly, and naming the machine."""

from __future__ import annotations

import datetime
import gc
import os
import platform
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# what makes the host wait for the device: a number is read, or a shape depends on values
SYNCS = {"_local_scalar_dense", "is_nonzero", "item", "equal", "nonzero", "masked_select", "unique"}


class OpCounter(TorchDispatchMode):
    """Counts ATen operations, and views and synchronisations among them, while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: Counter[str] = Counter()
        self.views = 0
        self.reads = 0
        self.patches = ExitStack()

    @property
    def total(self) -> int:
        return self.ops.total()

    @property
    def syncs(self) -> int:
        return sum(count for name, count in self.ops.items() if _stem(name) in SYNCS) + self.reads

    def __enter__(self):
        # on the CPU these dispatch no operation, on a GPU they wait for it
        for name in ("tolist", "numpy"):
            self.patches.enter_context(
                mock.patch.object(torch.Tensor, name, self._counting(getattr(torch.Tensor, name)))
            )
        return super().__enter__()

    def __exit__(self, *exception) -> None:
        super().__exit__(*exception)
        self.patches.close()

    def _counting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.reads += 1
            return method(tensor, *args, **kwargs)

        return counted

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops[func.__name__] += 1
        self.views += func.is_view
        return func(*args, **(kwargs or {}))


def _stem(name: str) -> str:
    stem = name.split(".")[0]
    return "unique" if stem.startswith(("_unique", "unique")) else stem


def interleaved(functions: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Milliseconds of every function in every round: they take turns, so that a slow minute hits all of them."""
    for _ in range(warm_up):
        for function in functions.values():
            function()
    taken: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions.items())
    for _ in range(repeats):
        gc.collect()
        order = order[1:] + order[:1]  # the first after the collection finds cold caches
        for name, function in order:
            start = time.perf_counter()
            function()
            taken[name].append((time.perf_counter() - start) * 1e3)
    return taken


def describe_run(packages: Sequence[str]) -> dict[str, Any]:
    """Machine, versions, commit, date and command of this run."""
    return {
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "system": f"{platform.system()} {platform.machine()}",
            "load_average": [round(x, 2) for x in os.getloadavg()],
        },
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    numbers = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("cpu family", "model\t"))][:2]
    return f"{named[0]} (family {numbers[0]}, model {numbers[1]})" if named else platform.processor()


def _git(*arguments: str) -> str:
    root = Path(__file__).parent
    if shutil.which("git") is None:
        return ""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip()
