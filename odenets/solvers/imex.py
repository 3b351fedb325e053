"""Additive (implicit-explicit) Runge-Kutta methods for split fields f = f_E + f_I (`SplitField`).

Kennedy and Carpenter (2003), eqs. 3-6: an explicit tableau for f_E and an implicit one with a constant diagonal and an
explicit first stage (ESDIRK) for f_I, with the same nodes c and weights b:

    Y_i = y + h sum_{j<i} (aE_ij fE_j + aI_ij fI_j) + h gamma fI(t + c_i h, Y_i)
    y+ = y + h sum_i b_i (fE_i + fI_i)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from .tableau import Row


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

    fsal = False
    adaptive = True

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
        rows = np.zeros((self.stages + 1, 3))
        rows[:-1] = np.outer(self.b, [0.0, 3.0, -2.0])
        rows[0] += [1.0, -2.0, 1.0]
        rows[-1] += [0.0, -1.0, 1.0]
        return rows

    @cached_property
    def linear(self) -> np.ndarray:
        return np.array(self.b)[:, None]
