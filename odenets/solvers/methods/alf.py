"""Asynchronous leapfrog, order 2: Zhuang, Dvornek, Tatikonda, Duncan, "MALI" (ICLR 2021, arXiv:2102.04668), after
Mutze (arXiv:1311.6602).

    k = z + h v/2,   u = f(t + h/2, k),   v1 = v + 2 eta (u - v),   z1 = k + h v1/2,   v0 = f(t0, z0):

one evaluation a step. Damping, eta < 1, makes it of order 1, and the way back magnifies rounding by 1/|1 - 2 eta| a
step; at eta = 1/2 there is no way back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from ..errors import InputError
from ..one_step import Accuracy
from ..step import Field, StepSize, Trial, add_scaled
from ..structured.reversible import BoundReversible, Evaluate, Pair, require_one_clock


@dataclass(frozen=True)
class AsynchronousLeapfrog:
    """The method as data.

    Args:
        eta: damping, in (1/2, 1]; 1 is none.
        wide: keep both parts of the state in double precision; the field is evaluated in the state's.

    Raises:
        InputError: for another eta.
    """

    eta: float = 1.0
    wide: bool = False
    name: ClassVar[str] = "alf"
    control_order: ClassVar[int] = 2
    c: ClassVar[tuple[float, ...]] = (0.5,)
    fsal: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False
    # the parabola through z with slopes v and v1, as z1 - z = h/2 (v + v1)
    dense: ClassVar[np.ndarray] = np.array([[1.0, -0.5], [0.0, 0.5]])
    hermite: ClassVar[np.ndarray] = dense
    linear: ClassVar[np.ndarray] = np.array([[0.5], [0.5]])

    def __post_init__(self) -> None:
        if not 0.5 < self.eta <= 1:
            raise InputError(f"eta must lie in (1/2, 1], got {self.eta}.")

    @property
    def order(self) -> int:
        return 2 if self.eta == 1 else 1

    def bind(self, field: Field, accuracy: Accuracy) -> BoundReversible:
        require_one_clock(self.name, accuracy)
        return _Bound(field, self.wide, self.eta)


class _Bound(BoundReversible):
    evaluations = 1

    def __init__(self, field: Field, wide: bool, eta: float) -> None:
        super().__init__(field, wide)
        self.eta = eta

    def begin(self, y: Tensor, derivative: Callable[[], Tensor]) -> Pair:
        return y, derivative().to(y.dtype)

    def evaluate(self, i: int, times: Sequence[Tensor], h: StepSize, x: Tensor) -> Tensor:
        return self.slope(times[0], x)

    def forth(self, h: StepSize, pair: Pair, evaluate: Evaluate) -> Pair:
        z, v = pair
        k = add_scaled(z, h * 0.5, v)
        u = evaluate(0, k)
        v1 = add_scaled(v, 2 * self.eta, u - v)
        return add_scaled(k, h * 0.5, v1), v1

    def back(self, h: float, pair: Pair, evaluate: Evaluate, before: Callable[[Tensor], Tensor]) -> Pair:
        z1, v1 = pair
        k = add_scaled(z1, -0.5 * h, v1)
        u = evaluate(0, k)
        v = add_scaled(v1, -2 * self.eta, u) / (1 - 2 * self.eta)
        return add_scaled(k, -0.5 * h, v), v

    def trial_of(self, before: Pair, after: Pair, h: StepSize) -> Trial:
        return Trial(after[0], None, [before[1], after[1]])
