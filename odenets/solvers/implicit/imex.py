"""Additive (implicit-explicit) Runge-Kutta methods for split fields f = f_E + f_I (`SplitField`).

Kennedy and Carpenter (2003), eqs. 3-6: an explicit tableau for f_E and an implicit one with a constant diagonal and an
explicit first stage (ESDIRK) for f_I, with the same nodes c and weights b:

    Y_i = y + h sum_{j<i} (aE_ij fE_j + aI_ij fI_j) + h gamma fI(t + c_i h, Y_i)
    y+ = y + h sum_i b_i (fE_i + fI_i)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import field as setting
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..field import FlatField
from ..one_step import Accuracy, BoundMethod
from ..step import Field, StepSize, Trial, add_scaled, weighted_sum
from ..tableau import Row, hermite_rows
from .gradient import attached
from .newton import Newton
from .nonlinear import Nonlinear, Work
from .runge_kutta import extrapolation
from .split_field import SplitField
from .stages import StageEquations


@dataclass(frozen=True)
class AdditiveTableau:
    """A pair of an explicit and an implicit s-stage tableau.

    Args:
        name: as in `solver=`.
        order: order of the propagated solution, for any split.
        gamma: diagonal of the implicit tableau from the second stage on.
        explicit, implicit: s rows each, strictly lower triangular parts.
        b, b_embedded: s weights of the new state, and of the one it is compared with.
        c: s nodes.
        interpolant: s rows of b_i(theta) / theta in rising powers.
        nonlinear: how the stages' equations are solved.
    """

    name: str
    order: int
    gamma: float
    explicit: tuple[Row, ...]
    implicit: tuple[Row, ...]
    b: Row
    b_embedded: Row
    c: Row
    interpolant: tuple[Row, ...]
    nonlinear: Nonlinear = setting(default_factory=Newton)

    fsal = False
    adaptive = True
    integrates_adjoints = False  # the adjoint's field is not split

    @property
    def stages(self) -> int:
        return len(self.b)

    @property
    def control_order(self) -> int:
        return self.order

    @cached_property
    def b_error(self) -> Row:
        return tuple(b - embedded for b, embedded in zip(self.b, self.b_embedded))

    @cached_property
    def matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """The full explicit and implicit matrices [s, s]."""
        explicit, implicit = (np.zeros((self.stages, self.stages)) for _ in range(2))
        for i in range(self.stages):
            explicit[i, :i], implicit[i, :i] = self.explicit[i], self.implicit[i]
            implicit[i, i] = self.gamma if i else 0.0
        return explicit, implicit

    @cached_property
    def dense(self) -> np.ndarray:
        return np.array(self.interpolant)

    @cached_property
    def hermite(self) -> np.ndarray:
        return hermite_rows((*self.b, 0.0))

    @cached_property
    def linear(self) -> np.ndarray:
        return np.array(self.b)[:, None]

    def bind(self, field: Field, accuracy: Accuracy) -> BoundMethod:
        return Additive(self, field, accuracy)


class Additive(BoundMethod):
    """An additive pair on a `SplitField`. The calls of either part count as evaluations.

    Raises:
        InputError: if the field is not split, or its states are complex.
    """

    def __init__(self, tableau: AdditiveTableau, field: Field, accuracy: Accuracy) -> None:
        split = getattr(field, "func", field)
        if not isinstance(split, SplitField):
            raise InputError(
                f"{tableau.name} needs a SplitField(explicit, implicit), got {type(split).__name__}: split the field, or "
                "use kvaerno5 or rodas5p (gradient='adjoint' integrates another field backwards: use autograd)."
            )
        assert isinstance(field, FlatField)
        self.tableau, self.per_sample = tableau, accuracy.per_sample
        self.explicit, self.implicit = field.part(split.explicit), field.part(split.implicit)
        self.matrix = np.array([[tableau.gamma]])
        self.solver = tableau.nonlinear.bind(self.implicit, accuracy, self.matrix)
        self.guesses = [extrapolation(np.array(tableau.c), i) for i in range(tableau.stages)]

    @property
    def work(self) -> Work:
        return self.solver.work

    @property
    def cause(self) -> str:  # type: ignore[override]
        return self.solver.cause

    def trial(
        self, times: Sequence[Tensor], h: StepSize, y: Tensor, derivative: Callable[[], Tensor], with_error: bool = True
    ) -> Trial:
        tableau = self.tableau
        if y.is_complex():
            raise InputError(f"{tableau.name} needs real states, got {y.dtype}; pass torch.view_as_real of them.")
        step = h.detach() if isinstance(h, Tensor) and h.dim() else float(h.detach() if isinstance(h, Tensor) else h)
        self.solver.begin(times[0].detach(), y.detach(), step)
        implicit = [self.implicit(times[0], y)]
        explicit = [derivative() - implicit[0]]  # the sum is known: the difference is exact to its rounding
        failed = np.zeros((len(y),) if self.per_sample else (), bool)
        for i in range(1, tableau.stages):
            rows = (*tableau.explicit[i], *tableau.implicit[i])
            base = add_scaled(y, h, weighted_sum(rows, [*explicit, *implicit]))
            equations = StageEquations(self.implicit, times[i : i + 1], h, base, self.matrix)
            with torch.no_grad():
                guess = weighted_sum(self.guesses[i], [k.detach() for k in implicit])
                assert guess is not None
                solved = self.solver.solve(equations.detached(), guess[None], robust=not with_error)
            failed |= solved.failed
            if failed.all():
                return Trial(y, torch.full_like(y, float("nan")), self._sums(explicit, implicit), self._flag(failed, y))
            implicit.append(attached(equations, solved.k, self.solver)[0])
            explicit.append(self.explicit(times[i], add_scaled(base, h, implicit[-1] * tableau.gamma)))
        stages = self._sums(explicit, implicit)
        y1 = add_scaled(y, h, weighted_sum(tableau.b, stages))
        error = None
        if with_error:
            error = weighted_sum(tableau.b_error, stages)
            assert error is not None
            error = error * h
        return Trial(y1, error, stages, self._flag(failed, y))

    def _sums(self, explicit: list[Tensor], implicit: list[Tensor]) -> list[Tensor]:
        """f at every stage, repeated to the full number where the trial ended early."""
        sums = [e + i for e, i in zip(explicit, implicit)]
        return sums + [sums[-1]] * (self.tableau.stages - len(sums))

    def _flag(self, failed: np.ndarray, y: Tensor) -> bool | Tensor:
        return torch.from_numpy(failed).to(y.device) if self.per_sample else bool(failed)

    def accepted(self, where: Tensor | None = None) -> None:
        self.solver.accepted(where)

    def jumped(self) -> None:
        self.solver.jumped()

    def memory(self) -> tuple[Tensor, ...]:
        return self.solver.memory()

    def notes(self) -> Any:
        return self.solver.notes()

    def restore(
        self, memory: tuple[Tensor, ...], notes: Any = None, start: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self.solver.restore(memory, notes, start)
