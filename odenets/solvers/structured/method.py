"""One-step methods that are no combination of stages, and their dense output: the step taken again, shorter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..integrator import Step
from ..one_step import Accuracy, BoundMethod
from ..step import Field, carries_derivative, stage_times


class StructuredMethod(ABC):
    """The part of `Method` that exponential and symplectic methods share: fixed steps, no error estimate."""

    name: str
    order: int
    c: tuple[float, ...]
    fsal = False
    adaptive = False

    @abstractmethod
    def bind(self, field: Field, accuracy: Accuracy) -> BoundMethod:
        """Raises InputError if the field lacks the structure."""

    @property
    def control_order(self) -> int:
        return self.order

    @property
    def dense(self) -> np.ndarray:
        return np.zeros((0, 1))  # see StructuredStep

    @property
    def hermite(self) -> np.ndarray:
        raise InputError(f"{self.name} fills its steps in by shorter ones: interpolation must be dense.")

    @property
    def linear(self) -> np.ndarray:
        return self.hermite


class BoundStructured(BoundMethod):
    """A structured method on its field."""

    def __init__(self, method: StructuredMethod) -> None:
        self.method = method

    def dense_output(self, step: Step) -> Step:
        return StructuredStep(**vars(step), bound=self)


@dataclass
class StructuredStep(Step):
    """A step whose states in between are steps of their own from its start.

    They have the method's order and keep what it keeps (the exact flow of a stiff linear part, the symplectic form),
    which no polynomial does. Each time costs the stages of one step.
    """

    bound: BoundStructured | None = None

    def finish(self) -> None:
        self.end_derivative = None

    def evaluate(self, ts: Tensor, times: list[float], own: bool = True) -> Tensor:
        tracked = carries_derivative(ts) or carries_derivative(self.t0)
        states = []
        for t, time in zip(ts.unbind(), times):
            if time == self.end and (not tracked or (own and self.ends_at_output)):
                states.append(self.y1)
            else:
                states.append(self._after(t.to(self.t0.dtype) - self.t0 if tracked else time - self.start))
        return torch.stack(states)

    def _after(self, h: Tensor | float) -> Tensor:
        assert self.bound is not None
        nodes = torch.tensor(self.bound.method.c, dtype=self.t0.dtype, device=self.t0.device)
        times = stage_times(nodes, self.t0, h, torch.empty((), dtype=self.y0.dtype).abs().dtype)
        return self.bound.trial(times, h, self.y0, _no_derivative, with_error=False).y1


def _no_derivative() -> Tensor:
    raise AssertionError("structured methods evaluate the parts of the field, not the field")
