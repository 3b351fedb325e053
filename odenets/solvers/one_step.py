"""What the integrators need of a one-step method, and explicit Runge-Kutta methods in that form.

A method is data (`Method`); `bind` ties it to a field for one solve. What it keeps between steps to make the next one
cheaper (a factorised Jacobian, say) lives in the bound method, never in the data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from .integrator import Step
from .kernel_step import kernel_step, takes_kernels
from .norms import Norm, rms_norm
from .step import Field, StepSize, Trial, runge_kutta_step
from .tableau import ButcherTableau


@dataclass(frozen=True)
class Accuracy:
    """What a step is wanted to be good for; iterations inside a step stop at a fraction of it.

    Attributes:
        rtol, atol: the step's tolerances, floats or tensors that broadcast against the state.
        norm: of the scaled error, -> number, or [batch] with a clock per sample.
        per_sample: whether the first dimension of the state is a batch of separate systems, each with its own clock.
    """

    rtol: float | Tensor = 1e-6
    atol: float | Tensor = 1e-8
    norm: Norm = rms_norm
    per_sample: bool = False


class BoundMethod(ABC):
    """A one-step method on one field, for one solve."""

    @abstractmethod
    def trial(
        self, times: Sequence[Tensor], h: StepSize, y: Tensor, derivative: Callable[[], Tensor], with_error: bool = True
    ) -> Trial:
        """One step from y, accepted or not.

        Args:
            times: the times of the method's nodes c, each [] or [batch].
            h: signed step size, a float, [] or [batch, 1, ...].
            y: state [*state].
            derivative: computes f at the start of the step, or gives it where it is known; call it at most once.
            with_error: whether to form the error estimate.
        """

    iterates = False  # whether trials count `Trial.updates`
    cause = ""  # why the last failed trial failed, in a few words
    end_slope: Tensor | None = None  # f at the state reached as the step's equations gave it: f to their tolerance only

    def accepted(self, where: Tensor | None = None) -> None:
        """The last trial became a step: the next one starts where it ended.

        where: the samples whose step it became [batch], if each has its own clock.
        """

    def jumped(self) -> None:
        """The state has been replaced: what was learned from earlier steps may be out of date."""

    def memory(self) -> tuple[Tensor, ...]:
        """What the result of the next step depends on besides the state; () for a one-step method proper."""
        return ()

    def notes(self) -> Any:
        """What else it depends on, a few numbers."""
        return None

    def restore(
        self, memory: tuple[Tensor, ...], notes: Any = None, start: tuple[Tensor, Tensor] | None = None
    ) -> None:
        """Go on from a state `start` (t, y) that was reached with this memory and where these notes were taken."""
        self.jumped()

    def dense_output(self, step: Step) -> Step:
        """The accepted step with the method's dense output: the polynomial over its stages that it comes with."""
        return step


class Method(Protocol):
    """A one-step method as data: a `ButcherTableau`, taken as explicit, or a class with a method
    `bind(field, accuracy) -> BoundMethod`.

    Attributes:
        name: as in `solver=`.
        order: order of the propagated solution.
        control_order: the step size is chosen as if the error estimate were proportional to h^control_order.
        c: nodes at whose times (t + c_i h) the field is evaluated.
        fsal: the last of a trial's stages is f at the new state.
        adaptive: whether a trial can estimate its error.
        dense, hermite, linear: coefficients of the polynomials over the stages, as in `ButcherTableau.dense`.
    """

    @property
    def name(self) -> str: ...
    @property
    def order(self) -> int: ...
    @property
    def control_order(self) -> int: ...
    @property
    def c(self) -> tuple[float, ...]: ...
    @property
    def fsal(self) -> bool: ...
    @property
    def adaptive(self) -> bool: ...
    @property
    def dense(self) -> np.ndarray: ...
    @property
    def hermite(self) -> np.ndarray: ...
    @property
    def linear(self) -> np.ndarray: ...


class ExplicitRungeKutta(BoundMethod):
    """An explicit tableau on a field: nothing to keep."""

    def __init__(self, tableau: ButcherTableau, field: Field, accuracy: Accuracy | None = None) -> None:
        self.tableau, self.field, self.accuracy = tableau, field, accuracy or Accuracy()

    def trial(
        self, times: Sequence[Tensor], h: StepSize, y: Tensor, derivative: Callable[[], Tensor], with_error: bool = True
    ) -> Trial:
        f0 = derivative()
        if takes_kernels(y, f0):
            return kernel_step(self.field, self.tableau, times, h, y, f0, self.accuracy, with_error)
        return runge_kutta_step(self.field, self.tableau, times, h, y, f0, with_error)


def bind(method: Any, field: Field, accuracy: Accuracy) -> BoundMethod:
    """The method on a field, for one solve."""
    if isinstance(method, ButcherTableau):
        return ExplicitRungeKutta(method, field, accuracy)
    return method.bind(field, accuracy)
