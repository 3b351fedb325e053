"""Any explicit Runge-Kutta method made reversible by coupling two copies of the state: McCallum and Foster, "Efficient,
accurate and stable gradients for neural ODEs" (2024, arXiv:2410.11648), definition 3.1.

With Psi_h(t, z) the increment of the base method's step of size h, and 0 < lambda <= 1,

    y1 = lambda y + (1 - lambda) z + Psi_h(t, z),   z1 = z - Psi_{-h}(t + h, y1),   z0 = y0;
    z = z1 + Psi_{-h}(t + h, y1),   y = (y1 - (1 - lambda) z - Psi_h(t, z)) / lambda.

The order is the base method's, for twice its evaluations.

How to choose lambda. On x' = -a x the step's eigenvalues are about e^{-ah} and lambda e^{ah}: the forward scheme is
stable only for a h < ln(1/lambda). Backward, the reconstruction loses a factor of about
max(e^{aT}, lambda^{-N} e^{-aT}) of the precision over N steps to T = N h. A smaller lambda damps more forward and costs
lambda^{-N} backward: lambda^{-N} = 1e4 is lambda = 1 - 9.2/N. Where the field contracts strongly, no lambda serves
both: use `recursive` gradients there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from ..errors import InputError
from ..one_step import Accuracy
from ..step import Field, StepSize, Trial, add_scaled, weighted_sum
from ..structured.reversible import BoundReversible, Evaluate, Pair, require_one_clock
from ..tableau import ButcherTableau


@dataclass(frozen=True)
class Coupled:
    """The reversible form of a base method.

    Args:
        tableau: the base method, explicit.
        coupling: lambda.
        wide: keep both copies in double precision; the field is evaluated in the state's.

    Raises:
        InputError: for a coupling outside (0, 1].
    """

    tableau: ButcherTableau
    coupling: float = 0.999
    wide: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.coupling <= 1:
            raise InputError(f"coupling must lie in (0, 1], got {self.coupling}.")

    @property
    def name(self) -> str:
        return f"reversible_{self.tableau.name}"

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def control_order(self) -> int:
        return self.tableau.control_order

    @property
    def adaptive(self) -> bool:
        return self.tableau.adaptive

    @property
    def fsal(self) -> bool:
        return False

    @property
    def c(self) -> tuple[float, ...]:
        """Nodes of the base method forward from t and, for the second half, backward from t + h."""
        return (*self.tableau.c, *(1 - c for c in self.tableau.c))

    # the first "stage" is what the coupling adds, (1 - lambda) (z - y) / h, spread evenly over the step

    @cached_property
    def dense(self) -> np.ndarray:
        return _with_coupling(self.tableau.dense)

    @cached_property
    def hermite(self) -> np.ndarray:
        return _with_coupling(self.tableau.hermite)

    @cached_property
    def linear(self) -> np.ndarray:
        return _with_coupling(self.tableau.linear[: needed_stages(self.tableau)])

    def bind(self, field: Field, accuracy: Accuracy) -> BoundReversible:
        require_one_clock(self.name, accuracy)
        return _Bound(field, self.wide, self.tableau, self.coupling)


def _with_coupling(rows: np.ndarray) -> np.ndarray:
    first = np.zeros((1, rows.shape[1]))
    first[0, 0] = 1.0
    return np.concatenate([first, rows])


def needed_stages(tableau: ButcherTableau) -> int:
    """Number of stages that the new state needs: a first-same-as-last method's last stage is not among them."""
    return tableau.stages - tableau.fsal


class _Bound(BoundReversible):
    evaluations = 2

    def __init__(self, field: Field, wide: bool, tableau: ButcherTableau, coupling: float) -> None:
        super().__init__(field, wide)
        self.tableau, self.coupling = tableau, coupling
        self.stages: list[Tensor] = []
        self.error: Tensor | None = None
        self.calls = needed_stages(tableau)

    def begin(self, y: Tensor, derivative: Callable[[], Tensor]) -> Pair:
        return y, y

    def jumped(self) -> None:
        super().jumped()
        self.stages, self.error = [], None

    def evaluate(self, i: int, times: Sequence[Tensor], h: StepSize, x: Tensor) -> Tensor:
        s = self.tableau.stages
        if i == 1:
            increment = self._increment(times[s:], -h, x)[0]
        else:
            increment, self.stages = self._increment(times[:s], h, x)
            if self.with_error and self.tableau.b_error is not None:
                self.error = self._error(times[:s], h, x, increment)
        return increment

    def _increment(self, times: Sequence[Tensor], h: StepSize, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Psi_h(t, x) and its stages."""
        stages: list[Tensor] = []
        for i in range(self.calls):
            stages.append(self.slope(times[i], add_scaled(x, h, weighted_sum(self.tableau.a[i], stages))))
        total = weighted_sum(self.tableau.b, stages)
        assert total is not None
        return total * (h.to(total.real.dtype) if isinstance(h, Tensor) else h), stages

    def _error(self, times: Sequence[Tensor], h: StepSize, x: Tensor, increment: Tensor) -> Tensor:
        """The base method's estimate for its own step from z."""
        assert self.tableau.b_error is not None
        stages = self.stages
        if self.tableau.fsal and self.tableau.b_error[-1]:
            stages = [*stages, self.slope(times[-1], x + increment)]
        total = weighted_sum(self.tableau.b_error, stages)
        assert total is not None
        return total * h

    def forth(self, h: StepSize, pair: Pair, evaluate: Evaluate) -> Pair:
        y, z = pair
        y1 = y * self.coupling + z * (1 - self.coupling) + evaluate(0, z)
        return y1, z - evaluate(1, y1)

    def back(self, h: float, pair: Pair, evaluate: Evaluate, before: Callable[[Tensor], Tensor]) -> Pair:
        y1, z1 = pair
        z = z1 + evaluate(1, y1)
        return (y1 - z * (1 - self.coupling) - evaluate(0, z)) / self.coupling, z

    def trial_of(self, before: Pair, after: Pair, h: StepSize) -> Trial:
        y, z = before
        coupling = (z - y) * ((1 - self.coupling) / h)
        has_error = self.with_error and self.tableau.b_error is not None
        return Trial(after[0], self.error if has_error else None, [coupling, *self.stages])
