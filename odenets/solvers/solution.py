"""What a solve returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .errors import SolveError, Status
from .events.event import EventRecord


@dataclass
class Stats:
    """What a solve cost.

    Attributes:
        nfe: calls of the vector field (each on the whole batch).
        accepted, rejected: steps; tensors [batch] where each sample has its own step size, else ints.
        iterations, jacobians, factorisations, products: what implicit steps cost besides: updates of the nonlinear
            solver, Jacobians, factorisations, Jacobian-vector products (each on the whole batch).
        nfe_backward, accepted_backward, rejected_backward: the same for the backward solve of an adjoint, filled in
            when backward has run; None before.
    """

    nfe: int = 0
    accepted: int | Tensor = 0
    rejected: int | Tensor = 0
    iterations: int = 0
    jacobians: int = 0
    factorisations: int = 0
    products: int = 0
    nfe_backward: int | None = None
    accepted_backward: int | None = None
    rejected_backward: int | None = None


@dataclass
class Solution:
    """A solved initial value problem.

    Attributes:
        ts: times of the saved states [T] (of accepted steps where `save_at="steps"`).
        ys: the states there, [T, *y0.shape] (for a tree, the same tree with T in front of every leaf); NaN where a
            solve that failed or was ended by an event did not arrive. At the very time of an event: before its jump.
        stats: evaluations and steps.
        status: how it ended; a tensor [batch] of codes where each sample has its own step size.
        message: the cause in one line; empty on success.
        dense: callable t [...] -> states [..., *y0.shape] anywhere in the interval, where asked for.
        events: for every event its crossings, an `EventRecord`.
        counts: [batch], how many of the saved states each sample has, where `save_at="steps"` with a clock per sample.
    """

    ts: Tensor
    ys: Any
    stats: Stats = field(default_factory=Stats)
    status: Status | Tensor = Status.SUCCESS
    message: str = ""
    dense: Callable[[Tensor | float], Any] | None = None
    events: tuple[EventRecord, ...] = ()
    counts: Tensor | None = None

    @property
    def success(self) -> bool:
        """Whether every trajectory reached the end or a terminal event (one host synchronisation for a tensor)."""
        if isinstance(self.status, Status):
            return self.status.successful
        return bool(((self.status == int(Status.SUCCESS)) | (self.status == int(Status.EVENT))).all())

    def raise_if_failed(self) -> Solution:
        """Returns itself, or raises SolveError with the cause."""
        if self.message or not self.success:
            raise SolveError(self.message or Status.NON_FINITE.meaning, self)
        return self
