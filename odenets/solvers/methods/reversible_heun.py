"""Reversible Heun, order 2: Kidger, Foster, Li, Lyons, "Efficient and accurate gradients for neural SDEs" (NeurIPS
2021, arXiv:2105.13493), algorithm 1 without noise.

    x1 = 2 y - x + h f(t, x),   y1 = y + h/2 (f(t, x) + f(t + h, x1)),   x0 = y0:

one new evaluation a step. The inverse is the same with the parts exchanged and h replaced by -h. On decaying
components the second quantity oscillates with growing size: for x' = -a x the step is stable nowhere off the imaginary
axis, and errors grow like e^{aT}.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from ..one_step import Accuracy
from ..step import Field, StepSize, Trial, add_scaled
from ..structured.reversible import BoundReversible, Evaluate, Pair, require_one_clock


@dataclass(frozen=True)
class ReversibleHeun:
    """The method as data.

    Args:
        wide: keep both parts of the state in double precision; the field is evaluated in the state's.
    """

    wide: bool = False
    name: ClassVar[str] = "reversible_heun"
    order: ClassVar[int] = 2
    control_order: ClassVar[int] = 2
    c: ClassVar[tuple[float, ...]] = (0.0, 1.0)
    fsal: ClassVar[bool] = False
    adaptive: ClassVar[bool] = True
    # y + h (theta - theta^2/2) k0 + h theta^2/2 k1: Hermite's cubic, which is a parabola as y1 - y = h/2 (k0 + k1)
    dense: ClassVar[np.ndarray] = np.array([[1.0, -0.5], [0.0, 0.5]])
    hermite: ClassVar[np.ndarray] = dense
    linear: ClassVar[np.ndarray] = np.array([[0.5], [0.5]])

    def bind(self, field: Field, accuracy: Accuracy) -> BoundReversible:
        require_one_clock(self.name, accuracy)
        return _Bound(field, self.wide)


class _Bound(BoundReversible):
    evaluations = 1

    def begin(self, y: Tensor, derivative: Callable[[], Tensor]) -> Pair:
        return y, y, derivative().to(y.dtype)

    def evaluate(self, i: int, times: Sequence[Tensor], h: StepSize, x: Tensor) -> Tensor:
        return self.slope(times[1], x)

    def forth(self, h: StepSize, pair: Pair, evaluate: Evaluate) -> Pair:
        y, x, k = pair
        x1 = add_scaled(2 * y - x, h, k)
        k1 = evaluate(0, x1)
        return add_scaled(y, h * 0.5, k + k1), x1, k1

    def back(self, h: float, pair: Pair, evaluate: Evaluate, before: Callable[[Tensor], Tensor]) -> Pair:
        y1, x1, _ = pair
        k1 = evaluate(0, x1)
        x = add_scaled(2 * y1 - x1, -h, k1)
        k = before(x)
        return add_scaled(y1, -0.5 * h, k + k1), x, k

    def trial_of(self, before: Pair, after: Pair, h: StepSize) -> Trial:
        k, k1 = before[2], after[2]
        return Trial(after[0], (k1 - k) * (h * 0.5) if self.with_error else None, [k, k1])
