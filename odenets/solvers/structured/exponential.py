"""Exponential Runge-Kutta methods for y' = L y + N(t, y): exact in L, explicit in N.

Hochbruck, Ostermann, "Exponential integrators", Acta Numerica 2010, section 2.3: with z = h L,

    Y_i = e^{c_i z} y + h sum_j a_ij(z) N(t + c_j h, Y_j),    y1 = e^z y + h sum_i b_i(z) N(t + c_i h, Y_i),

where a_ij and b_i are combinations of the functions phi_k(c z).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..one_step import Accuracy
from ..step import Field, StepSize, Trial
from .method import BoundStructured, StructuredMethod
from .phi import phi_functions, phi_matrices
from .semilinear_field import apply

Weight = tuple[tuple[float, int, float], ...]
Row = tuple[Weight, ...]
_SIZES_KEPT = 8  # the sizes of a uniform grid's steps differ in their last bits; a few of them alternate


@dataclass(frozen=True)
class ExponentialRungeKutta(StructuredMethod):
    """An explicit exponential Runge-Kutta method.

    Args:
        name: as in `solver=`.
        order: for smooth N and bounded L.
        stiff_order: what is sure to remain when L is an unbounded operator (Hochbruck, Ostermann, SIAM J. Numer. Anal.
            43, 2005, sections 4-5).
        c: nodes.
        a: rows of weights, for the stages after the first, which is y itself. A weight is a sum of terms
            (factor, k, c) = factor phi_k(c z), () is zero.
        b: weights of the new state.
    """

    name: str
    order: int
    stiff_order: int
    c: tuple[float, ...]
    a: tuple[Row, ...]
    b: Row

    @cached_property
    def rows(self) -> list[tuple[float, Row]]:
        """(c_i, weights) of every stage after the first, and of the new state."""
        return [*zip(self.c[1:], self.a), (1.0, self.b)]

    @cached_property
    def highest(self) -> dict[float, int]:
        """The arguments' factors c, and the largest k of the phi_k(c z) that are needed."""
        terms = [(c, k) for _, row in self.rows for weight in row for _, k, c in weight]
        return {c: max(k for other, k in terms if other == c) for c in {c for c, _ in terms}}

    def bind(self, field: Field, accuracy: Accuracy) -> BoundExponential:
        return BoundExponential(self, field)


class BoundExponential(BoundStructured):
    """The method on a `SemilinearField`.

    The weights are computed once for every distinct step size, in double precision, and are differentiable with
    respect to L and, where it is a tensor, h.
    """

    method: ExponentialRungeKutta

    def __init__(self, method: ExponentialRungeKutta, field: Any) -> None:
        super().__init__(method)
        owner = getattr(field, "func", field)
        if not callable(getattr(owner, "linear_parts", None)):
            raise InputError(
                f"{method.name} needs a field with a linear part, SemilinearField(linear, nonlinear) for "
                f"f(t, x) = linear x + nonlinear(t, x), got {type(owner).__name__}."
            )
        self.nonlinear = field.part(owner.nonlinear)
        self.layout = field.layout
        parts = owner.linear_parts()
        if len(parts) != len(self.layout.shapes):
            raise InputError(f"linear must be a tree like the state, of {len(self.layout.shapes)}, got {len(parts)}.")
        axis = getattr(owner, "axis", -1)
        self.parts = [_LinearPart(linear, diagonal, axis) for linear, diagonal in parts]
        for part, shape, dtype in zip(self.parts, self.layout.shapes, self.layout.dtypes):
            part.check(shape, dtype)
        self._known: OrderedDict[tuple[float, bool], list[list[Combination]]] = OrderedDict()

    def trial(
        self, times: Sequence[Tensor], h: StepSize, y: Tensor, derivative: Callable[[], Tensor], with_error: bool = True
    ) -> Trial:
        values: list[Tensor] = []
        new = y
        for time, combinations in zip((*times, None), [None, *self._weights(h)]):
            if combinations is not None:
                new = self._combined(combinations, [y, *values])
            if time is not None:
                values.append(self.nonlinear(time, new))
        return Trial(new, None, [])

    def jumped(self) -> None:
        # weights with a graph serve one backward pass: steps that are run again for another one make their own
        for key in [key for key in self._known if key[1]]:
            del self._known[key]

    def _weights(self, h: StepSize) -> list[list[Combination]]:
        """For every row of the method, one combination per tensor of the state."""
        if isinstance(h, Tensor):
            return self._computed(h)
        key = (h, torch.is_grad_enabled())
        if key not in self._known:
            self._known[key] = self._computed(h)
            if len(self._known) > _SIZES_KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]

    def _computed(self, h: StepSize) -> list[list[Combination]]:
        per_part = [part.combinations(self.method, h) for part in self.parts]
        return [list(row) for row in zip(*per_part)]

    def _combined(self, combinations: list[Combination], vectors: list[Tensor]) -> Tensor:
        if self.layout.spec is None:
            return combinations[0](vectors)
        pieces = [vector.split(self.layout.sizes) for vector in vectors]
        new = []
        for i, (combination, shape) in enumerate(zip(combinations, self.layout.shapes)):
            new.append(combination([piece[i].view(shape) for piece in pieces]).reshape(-1))
        return torch.cat(new)


class Combination:
    """[y, N_1, N_2, ...] -> sum of a weight times each: e^{cz} for y, h a_ij(z) or h b_i(z) for the N_i.

    Args:
        weights: diagonals or matrices; None is zero.
        diagonal: which of the two.
        axis: the dimension of the vectors that matrices act on.
    """

    def __init__(self, weights: list[Tensor | None], diagonal: bool, axis: int = -1) -> None:
        self.axis = axis
        self.used = [i for i, weight in enumerate(weights) if weight is not None]
        self.diagonal = diagonal
        present = [weight for weight in weights if weight is not None]
        self.weights = present if diagonal else [torch.cat(present, -1)]
        self._as: dict[torch.dtype, list[Tensor]] = {}

    def __call__(self, vectors: list[Tensor]) -> Tensor:
        dtype = vectors[0].dtype
        if dtype not in self._as:
            self._as[dtype] = [weight.to(dtype) for weight in self.weights]
        weights, used = self._as[dtype], [vectors[i] for i in self.used]
        if not self.diagonal:
            return apply(weights[0], torch.cat(used, self.axis), False, self.axis)
        total = weights[0] * used[0]
        for weight, vector in zip(weights[1:], used[1:]):
            total = torch.addcmul(total, weight, vector)
        return total


class _LinearPart:
    """L on one tensor of the state, and its phi functions."""

    def __init__(self, linear: Tensor, diagonal: bool, axis: int) -> None:
        self.given, self.diagonal, self.axis = linear, diagonal, axis
        self.linear = linear.to(torch.complex128 if linear.is_complex() else torch.float64)
        if not diagonal:
            self.norm = float(torch.linalg.matrix_norm(self.linear.detach(), 1).amax())

    def check(self, shape: torch.Size, dtype: torch.dtype) -> None:
        """Raises InputError if L cannot act on a state of this shape and type."""
        size = list(self.given.shape)
        if self.linear.is_complex() and not dtype.is_complex:
            raise InputError(f"a complex linear part needs a complex state, got {dtype}: convert y0 with .cfloat().")
        if self.diagonal:
            fits = len(size) <= len(shape) and all(n in (1, m) for n, m in zip(size[::-1], shape[::-1]))
        else:
            lead = len(size) - 2
            fits = len(shape) >= lead - self.axis and shape[self.axis] == size[-1] and list(shape[:lead]) == size[:lead]
        if not fits:
            raise InputError(
                f"the linear part {size} does not act on a state {list(shape)}: it must be [D, D], [D] or [B, D, D] for "
                f"a state [B, ..., D{', C' if self.axis == -2 else ''}]."
            )

    def combinations(self, method: ExponentialRungeKutta, h: StepSize) -> list[Combination]:
        functions = {c: self._phi(h, c, highest) for c, highest in method.highest.items()}
        result = []
        for c, row in method.rows:
            weights: list[Tensor | None] = [functions[c][0]]
            for weight in row:
                terms = [functions[at][k] * (h * factor) for factor, k, at in weight]
                weights.append(sum(terms[1:], terms[0]) if terms else None)
            result.append(Combination(weights, self.diagonal, self.axis))
        return result

    def _phi(self, h: StepSize, c: float, highest: int) -> list[Tensor]:
        z = self.linear * (h * c)
        if self.diagonal:
            return phi_functions(z, highest)
        size = abs(float(h.detach() if isinstance(h, Tensor) else h)) * c
        return phi_matrices(z, highest, self.norm * size)
