"""Who solves: one object per row of a table, which makes of a task a function that solves it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchdiffeq
import torchode
from scipy.integrate import solve_ivp
from torch import Tensor

from odenets import solve

from .limits import limited
from .systems import F64, System, loss

COMPILATION, MEMORY = 120.0, 8.0  # seconds and GiB allowed
FEW = 256  # trajectories, of the batch between one and many


TURN = 0.02  # seconds: a turn is as many calls as fill it, or solves of under a millisecond would pay for cold caches


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A system, so many trajectories of it, at a tolerance, and whether the gradient is wanted."""

    system: System
    batch: int
    tolerance: float
    backward: bool = False

    @property
    def atol(self) -> float:
        return self.tolerance * self.system.scale

    @property
    def ts(self) -> Tensor:
        return torch.tensor([0.0, self.system.end], dtype=F64)

    def through(self, last: Callable[[Tensor], Tensor]) -> Callable[[], list[Tensor]]:
        """Of y0 -> state at the end, the function that returns that, and the gradients where they are wanted."""
        start, parameters = self.system.y0(self.batch), list(self.system.field.parameters())

        def forward() -> list[Tensor]:
            with torch.no_grad():
                return [last(start)]

        def both() -> list[Tensor]:
            y0 = start.detach().requires_grad_()
            y = last(y0)
            return [y.detach(), *torch.autograd.grad(loss(y), [y0, *parameters])]

        return both if self.backward else forward


@dataclasses.dataclass
class Started:
    """A task solved once.

    Attributes:
        result: state at the end [batch, n], then gradients of the loss by y0 and parameters if the task wants them.
        first: wall and CPU seconds of one solve without compilation.
        compile: seconds before that; None where nothing is compiled.
        once: solves again, returns wall and CPU seconds.
    """

    result: list[Tensor]
    first: tuple[float, float]
    compile: float | None
    once: Callable[[], tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to solve, a row of the tables.

    Attributes:
        prepare: task -> function that solves it; not timed.
        compiles: whether its first call compiles.
        batches: least and greatest number of trajectories that it is asked to solve.
    """

    name: str
    prepare: Callable[[Task], Callable[[], list[Tensor]]]
    compiles: bool = False
    batches: tuple[int, int] = (1, 10**9)

    def takes(self, task: Task) -> bool:
        return self.batches[0] <= task.batch <= self.batches[1]

    def start(self, task: Task, seconds: float) -> Started:
        """The task solved. Raises Over when a solve takes longer, and what the library raises."""
        run = self.prepare(task)

        def once() -> tuple[float, float]:
            wall, cpu, calls = time.perf_counter(), time.process_time(), 0
            while calls == 0 or time.perf_counter() - wall < TURN:
                run()
                calls += 1
            return (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls

        wall, cpu = time.perf_counter(), time.process_time()
        with limited(seconds + COMPILATION * self.compiles, MEMORY):
            result = run()
        first = time.perf_counter() - wall, time.process_time() - cpu
        if not self.compiles:
            return Started(result, first, None, once)
        with limited(seconds, MEMORY):
            second = once()
        return Started(result, second, max(first[0] - second[0], 0.0), once)


def ours(name: str, most: int = 10**9, **settings: Any) -> Contender:
    """`most` trajectories are what it is asked to solve."""

    def prepare(task: Task) -> Callable[[], list[Tensor]]:
        return task.through(
            lambda y0: solve(
                task.system.field, y0, task.ts, rtol=task.tolerance, atol=task.atol, **settings
            ).ys[-1]
        )  # fmt: skip

    many = 2 if settings.get("per_sample") and settings.get("compile") else 1  # of one trajectory it is the same
    compiles = bool(settings.get("ensemble") or settings.get("compile"))
    return Contender(f"odenets {name}", prepare, compiles, (many, most))


def theirs(name: str, odeint: Callable[..., Tensor]) -> Contender:
    def prepare(task: Task) -> Callable[[], list[Tensor]]:
        return task.through(
            lambda y0: odeint(
                task.system.field, y0, task.ts, rtol=task.tolerance, atol=task.atol, method="dopri5"
            )[-1]
        )  # fmt: skip

    return Contender(f"torchdiffeq {name}".strip(), prepare)


def of_torchode(name: str, compiled: bool) -> Contender:
    """A solver object for a system, so that another tolerance compiles nothing."""
    torch._dynamo.config.recompile_limit = 64  # all systems share the code of `solve`: beyond 8 it would run eagerly
    loops: dict[System, tuple[Any, Callable[..., Any]]] = {}

    def prepare(task: Task) -> Callable[[], list[Tensor]]:
        if task.system not in loops:
            term = torchode.ODETerm(task.system.field)
            control = torchode.IntegralController(task.atol, task.tolerance, term=term)
            step = torchode.Dopri5(term=term)
            loop = torchode.AutoDiffAdjoint(step, control, backprop_through_step_size_control=False)
            loops[task.system] = control, torch.compile(loop.solve) if compiled else loop.solve
        control, run = loops[task.system]
        control.atol.fill_(task.atol)
        control.rtol.fill_(task.tolerance)
        start, end = (t.expand(task.batch) for t in task.ts)
        return task.through(lambda y0: run(torchode.InitialValueProblem(y0, start, end)).ys[:, -1])

    return Contender(f"torchode {name}".strip(), prepare, compiled)


def scipys(method: str) -> Contender:
    """One trajectory after the other."""

    def prepare(task: Task) -> Callable[[], list[Tensor]]:
        starts, system = task.system.y0(task.batch).numpy(), task.system

        def run() -> list[Tensor]:
            ends = [
                solve_ivp(system.plain, (0, system.end), y0, method, rtol=task.tolerance, atol=task.atol).y[:, -1]
                for y0 in starts
            ]
            return [torch.from_numpy(np.stack(ends))]

        return run

    return Contender(f"scipy {method}", prepare, batches=(1, FEW))


def forward(stiff: bool) -> list[Contender]:
    """Stiff ones that take a minute to compile are not asked for many trajectories, which would compile them again."""
    if stiff:
        return [
            ours("kvaerno5", solver="kvaerno5"),
            ours("rodas5p", solver="rodas5p"),
            ours("kvaerno5 per sample", solver="kvaerno5", per_sample=True),
            ours("rodas5p per sample", solver="rodas5p", per_sample=True),
            ours("rodas5p compiled", FEW, solver="rodas5p", compile="solve"),
            ours("kvaerno5 compiled, per sample", FEW, solver="kvaerno5", compile="solve", per_sample=True),
            ours("rodas5p compiled, per sample", solver="rodas5p", compile="solve", per_sample=True),
            ours("rodas5p ensemble", solver="rodas5p", ensemble=True),
            *map(scipys, ("LSODA", "Radau")),
        ]
    return [
        ours("eager"),
        ours("per sample", per_sample=True),
        ours("compiled", compile="solve"),
        ours("compiled, per sample", compile="solve", per_sample=True),
        ours("ensemble", ensemble=True),
        theirs("", torchdiffeq.odeint),
        of_torchode("", compiled=False),
        of_torchode("solve compiled", compiled=True),
        *map(scipys, ("LSODA", "DOP853")),
    ]


def backward(stiff: bool) -> list[Contender]:
    """Some not for many trajectories: their solves or their compilation would be a quarter of the run."""
    if stiff:
        return [
            ours("kvaerno5", solver="kvaerno5"),
            ours("rodas5p", solver="rodas5p"),
            ours("kvaerno5 per sample", FEW, solver="kvaerno5", per_sample=True),
            ours("kvaerno5, recursive", FEW, solver="kvaerno5", gradient="recursive"),
            ours("kvaerno5, interpolating adjoint", FEW, solver="kvaerno5", gradient="interpolating_adjoint"),
            ours("rodas5p compiled", FEW, solver="rodas5p", compile="solve"),
            ours("rodas5p compiled, per sample", solver="rodas5p", compile="solve", per_sample=True),
            ours("rodas5p ensemble", solver="rodas5p", ensemble=True),
        ]
    return [
        ours("eager"),
        ours("eager, adjoint", gradient="adjoint"),
        ours("eager, recursive", FEW, gradient="recursive"),
        ours("per sample", per_sample=True),
        ours("compiled", compile="solve"),
        ours("compiled, adjoint", FEW, compile="solve", gradient="adjoint"),
        ours("compiled, recursive", FEW, compile="solve", gradient="recursive"),
        ours("compiled, per sample", compile="solve", per_sample=True),
        ours("ensemble", ensemble=True),
        theirs("", torchdiffeq.odeint),
        theirs("adjoint", torchdiffeq.odeint_adjoint),
        of_torchode("", compiled=False),
        dataclasses.replace(of_torchode("solve compiled", compiled=True), batches=(2, FEW)),
    ]
