"""Splitting methods for q' = drift(t, p), p' = kick(t, q): each half moves exactly while the other stands still.

Hairer, Lubich, Wanner, "Geometric Numerical Integration" (2nd ed. 2006, HLW), sections II.5 and VI.3. Every part of a
step is a shear, so a step is symplectic for a separable Hamiltonian, keeps volume, and is undone by the same shears
backwards. Time belongs to the half it acts on (extended phase space, HLW section VI.1.2): kicks see the time that the
drifts have moved to, drifts the time that the kicks have moved to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..one_step import Accuracy
from ..step import Field, StepSize, Trial, add_scaled
from .method import BoundStructured, StructuredMethod
from .separable_field import halves


@dataclass(frozen=True)
class Splitting(StructuredMethod):
    """kick, drift, kick, drift, ... by fractions of h.

    Args:
        name: as in `solver=`.
        order: for smooth fields.
        kicks: fractions of h, one more than the drifts or as many; 0 leaves a kick out.
        drifts: fractions of h.

    Attributes:
        parts: (whether it is a kick, fraction) in order.
        c: the parts' times.
    """

    name: str
    order: int
    kicks: tuple[float, ...]
    drifts: tuple[float, ...]
    parts: tuple[tuple[bool, float], ...] = field(init=False)
    c: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        parts, c = [], []
        for i, kick in enumerate(self.kicks):
            if kick:
                parts.append((True, kick))
                c.append(_sum(self.drifts[:i]))
            if i < len(self.drifts):
                parts.append((False, self.drifts[i]))
                c.append(_sum(self.kicks[: i + 1]))
        object.__setattr__(self, "parts", tuple(parts))
        object.__setattr__(self, "c", tuple(c))

    def bind(self, field: Field, accuracy: Accuracy) -> BoundSplitting:
        return BoundSplitting(self, field)


class BoundSplitting(BoundStructured):
    """The method on a field with `drift` and `kick`. A call of the kick counts as one of the field.

    Where a step ends and starts with a kick, the two share the force.
    """

    method: Splitting

    def __init__(self, method: Splitting, field: Any) -> None:
        super().__init__(method)
        owner = getattr(field, "func", field)
        if not all(callable(getattr(owner, name, None)) for name in ("drift", "kick")):
            raise InputError(
                f"{method.name} needs a field in two halves, SeparableField(kick, drift) for q' = drift(t, p), "
                f"p' = kick(t, q), or SeparableHamiltonian(potential), got {type(owner).__name__}."
            )
        self.field, self.owner = field, owner
        self.pair = field.layout.spec is not None
        if self.pair and len(field.layout.shapes) != 2:
            raise InputError(f"{method.name} needs a state (q, p) of two tensors, got {len(field.layout.shapes)}.")
        self._end: tuple[Tensor, Tensor, bool] | None = None
        self._last: tuple[Tensor, Tensor, bool] | None = None

    def trial(
        self, times: Sequence[Tensor], h: StepSize, y: Tensor, derivative: Callable[[], Tensor], with_error: bool = True
    ) -> Trial:
        known = self._end
        force = known[1] if known is not None and known[0] is y and known[2] == torch.is_grad_enabled() else None
        y1, force = self._walk(self.method.parts, times, h, y, force)
        self._last = None if force is None else (y1, force, torch.is_grad_enabled())
        return Trial(y1, None, [])

    def inverse(self, times: Sequence[Tensor], h: StepSize, y1: Tensor) -> Tensor:
        """The state from which the step with these times and this h came to y1, up to rounding."""
        return self._walk(self.method.parts[::-1], times[::-1], -h, y1, None)[0]

    def accepted(self, where: Tensor | None = None) -> None:
        self._end = self._last

    def jumped(self) -> None:
        self._end = self._last = None

    def _walk(
        self, parts: Sequence[tuple[bool, float]], times: Sequence[Tensor], h: StepSize, y: Tensor, force: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The state after the parts, and the force there if the last part and the first are kicks."""
        q, p = self._split(y)
        for (is_kick, fraction), time in zip(parts, times):
            if is_kick:
                force = self._kick(time, q, p) if force is None else force
                p = add_scaled(p, h * fraction, force)
            else:
                q = add_scaled(q, h * fraction, self._slope(self.owner.drift(time, p, *self.field.args), q, "drift"))
                force = None
        return self._join(q, p), force if parts[0][0] else None

    def _kick(self, time: Tensor, q: Tensor, p: Tensor) -> Tensor:
        self.field.nfe += 1
        return self._slope(self.owner.kick(time, q, *self.field.args), p, "kick")

    @staticmethod
    def _slope(value: Any, like: Tensor, name: str) -> Tensor:
        if not isinstance(value, Tensor) or value.shape != like.shape:
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{name} must return the shape of the half it moves, {list(like.shape)}, got {got}.")
        return value if value.dtype == like.dtype else value.to(like.dtype)

    def _split(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return halves(self.field.layout.unflatten(y))

    def _join(self, q: Tensor, p: Tensor) -> Tensor:
        return self.field.layout.flatten((q, p)) if self.pair else torch.cat([q, p], -1)


def _sum(fractions: Sequence[float]) -> float:
    """Their sum, whole where it is so up to rounding: a node of 1 is the end of the step, to the bit."""
    total = math.fsum(fractions)
    return float(round(total)) if abs(total - round(total)) < 1e-14 else total
