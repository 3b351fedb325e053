"""The protocol of a gradient method: one class in one file, its settings as a dataclass, one name in `GRADIENTS`."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import InputError, Status
from ..events.event import Event
from ..field import FlatField
from ..fixed import FixedIntegrator
from ..integrator import Integrator
from ..one_step import BoundMethod
from ..solution import Solution, Stats
from ..solver import Adaptive, Solver
from .parameters import parameters_of


@dataclass
class SolveProblem:
    """One call of `solve`, with the state as one tensor.

    Attributes:
        solver: how to integrate.
        flat: the field on flat states.
        ts: output times [T] (or [batch, T]), float64, the start first.
        y: state at the start.
        direction: +1.0 or -1.0.
        save_at, dense: as in `solve`.
        params: as given to `solve`; see `parameters`.
        events: as given to `solve`.
    """

    solver: Solver
    flat: FlatField
    ts: Tensor
    y: Tensor
    direction: float
    save_at: str = "ts"
    dense: bool = False
    params: Sequence[Tensor] | None = None
    events: Sequence[Event] = ()

    @property
    def per_sample(self) -> bool:
        return isinstance(self.solver, Adaptive) and self.solver.per_sample

    def parameters(self, gradient: str) -> tuple[Tensor, ...]:
        """Tensors to differentiate with respect to besides y and ts, each once, for a method that must know them."""
        return parameters_of(self.flat.func, self.flat.args, self.params, gradient)

    def start(self, t0: Tensor, y0: Tensor) -> Integrator:
        return self.solver.start(self.flat, t0, y0, self.direction)


class Gradient(ABC):
    """How a solve is differentiated. Subclasses are frozen dataclasses of their settings.

    Attributes:
        name: as in `gradient=`.
        takes_events: whether `solve` sees to the problem's events; otherwise it is called from event to event.
    """

    name: ClassVar[str]
    takes_events: ClassVar[bool] = False

    @abstractmethod
    def solve(self, problem: SolveProblem) -> Solution:
        """The solution with flat states ys [T, *state], differentiable with respect to ts, y and the parameters."""

    def check(self, problem: SolveProblem) -> None:
        """Raise InputError for what this method cannot do, before anything is computed.

        By default: every accepted step, dense output and per-sample steps.
        """
        if problem.save_at == "steps" or problem.dense:
            raise InputError(
                f"every accepted step and dense output need one clock and gradient='autograd', got {self.name!r}."
            )
        if problem.per_sample:
            raise InputError(
                f"gradient={self.name!r} has one step size for the batch: leave out per_sample, or use autograd."
            )


def stats_of(flat: FlatField, integrator: Integrator) -> Stats:
    return Stats(
        flat.nfe, integrator.accepted, integrator.rejected, **implicit_work(getattr(integrator, "bound", None))
    )


def implicit_work(bound: BoundMethod | None) -> dict[str, int]:
    """What the implicit equations of a solve cost, as entries of `Stats`; nothing for explicit methods."""
    work = getattr(bound, "work", None)
    return {} if work is None else dataclasses.asdict(work)


def judged(solution: Solution, integrator: Integrator) -> Solution:
    """With a fixed-step solve's status: nobody looked at the values while stepping. Does not wait for the device."""
    if isinstance(integrator, FixedIntegrator) and integrator.status is Status.SUCCESS:
        finite = torch.isfinite(solution.ys[-1].detach()).all()
        solution.status = torch.where(finite, int(Status.SUCCESS), int(Status.NON_FINITE))
    return solution


def pad_with_nan(ys: Tensor, length: int) -> Tensor:
    """ys [m, ...] extended to [length, ...]: what a failed solve did not reach is NaN."""
    if len(ys) == length:
        return ys
    return torch.cat([ys, ys.new_full((length - len(ys), *ys.shape[1:]), float("nan"))])


def smallest(tolerance: Any) -> float:
    """The tightest of tolerances given as a number, a tensor or a tree's numbers."""
    parts = tolerance if isinstance(tolerance, (tuple, list)) else [tolerance]
    return min(float(torch.as_tensor(part).min()) for part in parts)
