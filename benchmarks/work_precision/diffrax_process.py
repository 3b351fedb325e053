"""diffrax in an environment of its own: a process that solves when it is its turn, on as many threads."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .contenders import COMPILATION, Started, Task
from .limits import Over

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


class Diffrax:
    """The process; started with the first question, and again after one that took too long."""

    def __init__(self, python: str) -> None:
        self.python = python
        self.folder = tempfile.TemporaryDirectory()
        self.process: subprocess.Popen[str] | None = None
        self.versions: dict[str, str] = {}

    def ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer. Raises Over if it takes longer, RuntimeError with diffrax's own message."""
        if self.process is None:
            flags = ONE_THREAD if torch.get_num_threads() == 1 else ""
            self.process = subprocess.Popen(
                [self.python, str(Path(__file__).with_name("diffrax_server.py"))], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": ""},
            )  # fmt: skip
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        line = process.stdout.readline() if ready else ""
        if not line:
            self.close()
            raise Over(f"over {seconds:g} s with its compilation" if not ready else "its process ended")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class DiffraxContender:
    """A row of a table. `clock`: "one" step size for all trajectories, or one "each"; see `diffrax_server`."""

    def __init__(self, diffrax: Diffrax, name: str, clock: str, gradient: str = "") -> None:
        self.diffrax, self.name, self.clock, self.gradient = diffrax, f"diffrax {name}", clock, gradient

    def takes(self, task: Task) -> bool:
        return task.batch > 1 or self.clock == "each"

    def start(self, task: Task, seconds: float) -> Started:
        """The task solved. Raises Over when a solve takes longer, RuntimeError with what diffrax says."""
        file = str(Path(self.diffrax.folder.name) / "task.npz")
        np.savez(file, y0=task.system.y0(task.batch).numpy(), **task.system.weights())
        settings = {
            "prepare": file, "key": self.name, "system": task.system.name, "clock": self.clock,
            "gradient": self.gradient, "end": task.system.end, "rtol": task.tolerance, "atol": task.atol,
        }  # fmt: skip
        answer = self.diffrax.ask(settings, seconds + COMPILATION)
        process, self.diffrax.versions = self.diffrax.process, answer["versions"]
        if answer["cpu"] > seconds:
            raise Over(f"over {seconds:g} s")
        if not answer["succeeded"]:
            raise RuntimeError("the solve failed")
        with np.load(file + ".out.npz") as found:
            names = ["y", "y0", *task.system.weights()] if task.backward else ["y"]
            result = [torch.from_numpy(found[name]) for name in names]

        def once() -> tuple[float, float]:
            if self.diffrax.process is not process:  # it ended with another contender's solve
                return self.start(task, seconds).first
            again = self.diffrax.ask({"run": self.name}, 2 * seconds)
            return again["wall"], again["cpu"]

        return Started(result, (answer["wall"], answer["cpu"]), answer["compile"], once)


def contenders(diffrax: Diffrax, stiff: bool, backward: bool) -> list[DiffraxContender]:
    """Its rows. An implicit method with one step size would factorise one matrix for the whole batch, and a stiff system
    solved backward is unstable: both left out."""
    found = []
    for gradient in ("checkpoint", "backsolve")[: 1 if stiff else 2] if backward else ("",):
        how = f", {gradient}" if gradient else ""
        found.append(DiffraxContender(diffrax, f"jit of vmap{how}", "each", gradient))
        if not stiff and not gradient:
            found.append(DiffraxContender(diffrax, f"jit, one step size{how}", "one", gradient))
    return found
