"""One task: the gate for everybody, then rounds in which those that passed take turns."""

from __future__ import annotations

import dataclasses
import gc
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .contenders import Started, Task
from .limits import Over

SECONDS = 1.0  # that a contender's rounds take, roughly
LONG = 2.0  # seconds of a solve that is not repeated
MANY = 1000  # trajectories, and
LIMIT, LIMIT_MANY = 20.0, 60.0  # seconds after which a solve is given up, of up to so many and of more


class Solves(Protocol):
    name: str

    def takes(self, task: Task) -> bool: ...
    def start(self, task: Task, seconds: float) -> Started: ...


@dataclasses.dataclass
class Row:
    """What was measured of one contender on one task; no times where the gate did not pass.

    Attributes:
        error, gradient_error: in the sense of `System.errors`.
        compile: seconds; None where nothing is compiled.
        wall, cpu: seconds of every round.
        note: why there are no times.
    """

    system: str
    batch: int
    backward: bool
    tolerance: float
    name: str
    error: float | None = None
    gradient_error: float | None = None
    compile: float | None = None
    wall: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)
    note: str = ""

    @classmethod
    def of(cls, task: Task, name: str) -> Row:
        return cls(task.system.name, task.batch, task.backward, task.tolerance, name)


def gate(row: Row, task: Task, started: Started) -> bool:
    """Whether the result is right; its errors are noted."""
    system = task.system
    row.error, row.gradient_error = system.errors(started.result, task.batch)
    within = [row.error <= system.allowed * task.tolerance]
    if row.gradient_error is not None:
        within.append(row.gradient_error <= system.allowed_gradient * task.tolerance)
    if not all(within):
        row.note = "wrong: no speed"
    return all(within)


@dataclasses.dataclass
class Rounds:
    """How tasks are measured.

    Attributes:
        most: rounds of a task.
        deadline: by time.monotonic(); nothing is started after it.
        save: called with a task's rows after each gate and each round.
        failed: notes of contenders without a result, by (system, backward, name): they are not asked again.
        wrong: the same of those with a wrong result: they are not asked for many trajectories.
    """

    most: int
    deadline: float
    save: Callable[[list[Row]], Any]
    failed: dict[tuple[str, bool, str], str] = dataclasses.field(default_factory=dict)
    wrong: dict[tuple[str, bool, str], str] = dataclasses.field(default_factory=dict)

    def measure(self, task: Task, contenders: Sequence[Solves], most: int | None = None) -> list[Row]:
        """Rows of all that take the task."""
        most = self.most if most is None else min(most, self.most)
        rows: list[Row] = []
        turns: list[tuple[Row, Started, int]] = []
        for contender in contenders:
            if contender.takes(task):
                rows.append(Row.of(task, contender.name))
                started = self._started(rows[-1], task, contender)
                if started and gate(rows[-1], task, started):
                    rows[-1].compile = started.compile
                    turns.append((rows[-1], started, _rounds(rows[-1], started, most)))
                elif started and task.batch <= MANY:
                    self.wrong[task.system.name, task.backward, contender.name] = rows[-1].note
                self.save(rows)
        for i in range(most if turns else 0):
            gc.collect()
            first = i % len(turns)
            for row, started, rounds in turns[first:] + turns[:first]:
                if i < rounds:
                    wall, cpu = started.once()
                    row.wall.append(wall)
                    row.cpu.append(cpu)
            self.save(rows)
        return rows

    def _started(self, row: Row, task: Task, contender: Solves) -> Started | None:
        key = (task.system.name, task.backward, contender.name)
        known = self.failed.get(key, "") or (self.wrong.get(key, "") if task.batch > MANY else "")
        row.note = known or ("" if time.monotonic() < self.deadline else "no time left")
        if row.note:
            return None
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "solved eagerly")  # it would not be what its name says
                return contender.start(task, LIMIT_MANY if task.batch > MANY else LIMIT)
        except Over as over:
            row.note = f"{over}, {task.batch} x"
        except Exception as error:  # refused, failed or broken: the others are still measured
            kind = "" if type(error).__name__ in ("InputError", "RuntimeError") else f"{type(error).__name__}: "
            row.note = kind + (str(error).strip().splitlines() or [""])[0]
        self.failed[key] = row.note
        return None


def _rounds(row: Row, started: Started, most: int) -> int:
    """How often it is timed; a long solve is not run again, its first counts."""
    wall, cpu = started.first
    if cpu > LONG:
        row.wall.append(wall)
        row.cpu.append(cpu)
        return 0
    return min(most, max(3 if cpu < SECONDS / 2 else 2, int(SECONDS / max(cpu, 1e-6))))
