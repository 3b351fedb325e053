"""Rosenbrock steps as pure tensor code: `implicit.rosenbrock` without looking at values or keeping anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..implicit.rosenbrock import RosenbrockTableau
from ..one_step import Accuracy, BoundMethod
from ..step import Field, StepSize, Trial, add_scaled, weighted_sum
from .linear import factorised, slopes


@dataclass(frozen=True)
class PureRosenbrock:
    """A Rosenbrock tableau whose steps can be compiled into a loop; a `Method`.

    Args:
        tableau: the method.
        batch_dims: leading dimensions of the state that number separate systems.
    """

    tableau: RosenbrockTableau
    batch_dims: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tableau, name)

    def bind(self, field: Field, accuracy: Accuracy) -> BoundMethod:
        return BoundRosenbrock(self, field, accuracy)


class BoundRosenbrock(BoundMethod):
    """Df/dy, df/dt and the factors are formed at every trial step, refused ones included."""

    def __init__(self, method: PureRosenbrock, field: Field, accuracy: Accuracy) -> None:
        self.tableau, self.batch_dims = method.tableau, method.batch_dims
        self.field, self.per_sample = field, accuracy.per_sample

    def trial(
        self, times: Sequence[Tensor], h: StepSize, y: Tensor, derivative: Callable[[], Tensor], with_error: bool = True
    ) -> Trial:
        assert isinstance(h, Tensor)
        tableau, f0 = self.tableau, derivative()
        jacobian, slope = slopes(self.field, times[0], y, self.batch_dims, along_time=True)
        assert slope is not None
        lu = factorised(jacobian, (h.reshape(-1) if h.dim() else h) * tableau.gamma)
        stages: list[Tensor] = []
        for i in range(tableau.stages):
            rhs = f0
            if i:
                rhs = self.field(times[i], add_scaled(y, h, weighted_sum(tableau.a[i], stages)))
            if tableau.time[i] != 0:
                rhs = add_scaled(rhs, h * tableau.time[i], slope)
            coupled = weighted_sum(tableau.coupling[i], stages)
            if coupled is not None:
                rhs = rhs + coupled
            stages.append(lu.solve((rhs * tableau.gamma).reshape(jacobian.shape[:-1])).reshape(y.shape))
        y1 = add_scaled(y, h, weighted_sum(tableau.b, stages))
        error = weighted_sum(tableau.b_error, stages)
        assert error is not None
        # NaN in the field is another cause, and shows in the error
        failed = lu.singular & torch.isfinite(jacobian).all(-1).all(-1)
        return Trial(y1, error * h, [f0, *stages], failed if self.per_sample else failed.any())
