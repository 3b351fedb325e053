"""Algebraically reversible one-step methods: the state travels with a second quantity, and both can be stepped back.

A step evaluates the field at a few points and is affine in everything else, so that going back evaluates the field at
the same points. The pair lives in the bound method, which returns its first part as the state; the loops around it
do not know of the second. Gradients need no stored states (`gradients/reversible.py`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..one_step import Accuracy, BoundMethod
from ..step import Field, StepSize, Trial

Pair = tuple[Tensor, ...]
Evaluate = Callable[[int, Tensor], Tensor]
Column = list[tuple[int, float]]
_WIDE = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64,
         torch.complex32: torch.complex128, torch.complex64: torch.complex128}  # fmt: skip


class BoundReversible(BoundMethod):
    """A reversible method on a field.

    Args:
        field: f(t, y).
        wide: keep the pair in double precision; the field is evaluated in the state's.

    Attributes:
        evaluations: how many times a step calls `evaluate`.
        calls: calls of the field in each of them.
    """

    evaluations: int
    calls: int = 1

    def __init__(self, field: Field, wide: bool) -> None:
        self.field, self.wide = field, wide
        self.pair: Pair | None = None
        self.pending: Pair | None = None

    @abstractmethod
    def begin(self, y: Tensor, derivative: Callable[[], Tensor]) -> Pair:
        """The pair that a solve starts with at y [*state]."""

    @abstractmethod
    def evaluate(self, i: int, times: Sequence[Tensor], h: StepSize, x: Tensor) -> Tensor:
        """The i-th evaluation of a step, at the point x."""

    @abstractmethod
    def forth(self, h: Tensor | float, pair: Pair, evaluate: Evaluate) -> Pair:
        """The step, affine but for `evaluate(i, x)`, called for i = 0, 1, ...; its coefficients are affine in h."""

    @abstractmethod
    def back(self, h: float, pair: Pair, evaluate: Evaluate, before: Callable[[Tensor], Tensor]) -> Pair:
        """Its inverse, which evaluates at the same points; `before(x)` is the last evaluation of the step before."""

    @abstractmethod
    def trial_of(self, before: Pair, after: Pair, h: StepSize) -> Trial:
        """Stages and error estimate for a step just taken by `forth`."""

    def trial(
        self, times: Sequence[Tensor], h: StepSize, y: Tensor, derivative: Callable[[], Tensor], with_error: bool = True
    ) -> Trial:
        pair = self.begin(self.widened(y), derivative) if self.pair is None else self.pair
        self.with_error, self.dtype = with_error, y.dtype
        self.pending = self.forth(over_pair(h, pair), pair, lambda i, x: self.evaluate(i, times, h, x))
        trial = self.trial_of(pair, self.pending, h)
        error = None if trial.error is None else trial.error.to(y.dtype)
        return Trial(self.pending[0].to(y.dtype), error, [stage.to(y.dtype) for stage in trial.stages])

    def accepted(self, where: Tensor | None = None) -> None:
        self.pair = self.pending

    def jumped(self) -> None:
        self.pair = self.pending = None

    def memory(self) -> Pair:
        return () if self.pair is None else self.pair

    def restore(self, memory: Pair, notes: object = None, start: tuple[Tensor, Tensor] | None = None) -> None:
        self.pair, self.pending = memory or None, None

    def widened(self, y: Tensor) -> Tensor:
        return y.to(_WIDE.get(y.dtype, y.dtype)) if self.wide else y

    def slope(self, time: Tensor, x: Tensor) -> Tensor:
        """f in the state's precision, returned in the pair's."""
        if x.dtype == self.dtype:
            return self.field(time, x)
        return self.field(time, x.to(self.dtype)).to(x.dtype)

    dtype: torch.dtype
    with_error: bool


class AffinePart:
    """A step without its evaluations: the points that it evaluates at and the pair it ends with, as combinations of the
    pair it starts from and the values. `forth` gives the coefficients when it is run on unit vectors; they are affine
    in h.

    Args:
        bound: the method.
        parts: length of its pair.
    """

    def __init__(self, bound: BoundReversible, parts: int) -> None:
        unit = torch.eye(parts + bound.evaluations, dtype=torch.float64)

        def rows(h: float) -> np.ndarray:
            points: list[Tensor] = []

            def evaluate(i: int, x: Tensor) -> Tensor:
                points.append(x)
                return unit[parts + i]

            after = bound.forth(h, tuple(unit[:parts]), evaluate)
            return torch.stack([*after, *reversed(points)]).numpy()

        self.fixed = rows(0.0)
        self.slope = rows(1.0) - self.fixed
        self.latest: tuple[float, list[Column]] = (math.nan, [])

    def columns(self, h: float) -> list[Column]:
        """Of every part of the pair and every value: where it has a coefficient in the new pair and in the points, the
        last point first, and that coefficient.
        """
        if self.latest[0] != h:
            columns = (self.fixed + h * self.slope).T.tolist()
            self.latest = h, [[(r, w) for r, w in enumerate(column) if w != 0] for column in columns]
        return self.latest[1]

    def size_gradient(self, arrived: Sequence[Tensor], variables: Sequence[Tensor]) -> Tensor | None:
        """dL/dh, from the gradients of the rows and the pair and values themselves."""
        total: Tensor | None = None
        for r, c in zip(*self.slope.nonzero()):
            part = (
                torch.linalg.vecdot(arrived[r].reshape(-1), variables[c].reshape(-1)).real.double() * self.slope[r, c]
            )
            total = part if total is None else total + part
        return total


def over_pair(h: StepSize, pair: Pair) -> StepSize:
    """h in the pair's (real) precision."""
    return h.to(pair[0].real.dtype) if isinstance(h, Tensor) else h


def require_one_clock(name: str, accuracy: Accuracy) -> None:
    """Raise InputError for a clock per sample: a step is taken or refused for the pair as a whole."""
    if accuracy.per_sample:
        raise InputError(f"{name} carries a second state and has one step size for the batch: leave out per_sample.")
