"""Schemes whose stability function is rational: every Runge-Kutta method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odenets.flows import stability
from odenets.flows.scheme import Scheme, check_square
from odenets.solvers import ButcherTableau
from odenets.solvers.structured.phi import at_least_single

Coefficients = tuple[float, ...]
_ZERO = 1e-14  # what irrational tableaus leave of coefficients that vanish


@dataclass(frozen=True, eq=False)
class Rational(Scheme):
    """Q = N/D and R = (D + z N)/D with polynomials N and D, coefficients in rising powers, N_0 = D_0 = 1.

    Args:
        name: the scheme's name.
        numerator: N.
        denominator: D; (1.0,) for an explicit scheme.

    Raises:
        ValueError: if N_0 or D_0 is not 1: Q(0) = 1 for every consistent scheme.
    """

    name: str
    numerator: Coefficients
    denominator: Coefficients = (1.0,)

    def __post_init__(self) -> None:
        for part in ("numerator", "denominator"):
            object.__setattr__(self, part, _trimmed(getattr(self, part)))
            first = getattr(self, part)[0]
            if abs(first - 1) > 1e-12:
                raise ValueError(f"{self.name}: the {part} of Q must begin with 1 so that Q(0) = 1, got {first}.")
        for name in (
            "_r",
            "_q2",
            "_gate",
            "real_limit",
            "reflects_above",
        ):  # asked for in steps: a compiler wants values
            getattr(self, name)

    @classmethod
    def from_tableau(cls, tableau: ButcherTableau) -> Rational:
        """Q(z) = b^T (I - z a)^{-1} 1 as a quotient of polynomials (Hairer, Wanner II, section IV.3).

        D = det(I - z a), and N = D sum_j (b^T a^j 1) z^j, which ends at degree s - 1. In exact arithmetic.
        """
        s = tableau.stages
        a = [[Fraction(float(x)) for x in row] for row in tableau.matrix]
        b = [Fraction(float(x)) for x in tableau.b]
        moments, power = [], [Fraction(1)] * s
        for _ in range(s):
            moments.append(_dot(b, power))
            power = [_dot(row, power) for row in a]
        explicit = all(a[i][j] == 0 for i in range(s) for j in range(i, s))
        d = [Fraction(1)] if explicit else _determinant(a)
        n = [sum((d[i] * moments[j - i] for i in range(min(j, len(d) - 1) + 1)), Fraction(0)) for j in range(s)]
        return cls(tableau.name, tuple(map(float, n)), tuple(map(float, d)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    # Coefficients derived from N and D

    @cached_property
    def _r(self) -> Coefficients:
        """R's numerator D + z N."""
        return _trimmed(_sum(self.denominator, (0.0, *self.numerator)))

    @cached_property
    def _q2(self) -> Coefficients:
        """Q2's numerator (N - D) / z."""
        difference = _sum(self.numerator, tuple(-d for d in self.denominator))
        return _trimmed(difference[1:]) if len(difference) > 1 else (0.0,)

    @cached_property
    def _gate(self) -> tuple[Coefficients, Coefficients]:
        """h N(-h) and D(-h) as polynomials in h."""
        return (0.0, *_alternated(self.numerator)), _alternated(self.denominator)

    # Elementwise

    def R(self, z: Any) -> Any:
        return _quotient(self._r, self.denominator, z)

    def Q(self, z: Any) -> Any:
        return _quotient(self.numerator, self.denominator, z)

    def Q2(self, z: Any) -> Any:
        return _quotient(self._q2, self.denominator, z)

    def gate(self, h: Any) -> Any:
        return _quotient(*self._gate, h)

    # Of matrices

    def matrices(self, m: Tensor) -> tuple[Tensor, Tensor]:
        m = check_square(m)
        with torch.autocast(m.device.type, enabled=False):
            q = _of_matrix(self.numerator, m)
            if self.is_explicit:
                return _of_matrix(self._r, m), q
            both = torch.cat([_of_matrix(self._r, m), q], dim=-1)
            r, q = torch.linalg.solve(_of_matrix(self.denominator, m), both).chunk(2, dim=-1)
        return r, q

    def R_matrix(self, m: Tensor) -> Tensor:
        return self._matrix(self._r, m)

    def Q_matrix(self, m: Tensor) -> Tensor:
        return self._matrix(self.numerator, m)

    def _matrix(self, numerator: Coefficients, m: Tensor) -> Tensor:
        m = check_square(m)
        with torch.autocast(m.device.type, enabled=False):
            value = _of_matrix(numerator, m)
            return value if self.is_explicit else torch.linalg.solve(_of_matrix(self.denominator, m), value)

    # What is known of it

    @cached_property
    def order(self) -> float:
        series: list[float] = []  # of Q, which must begin 1 + z/2! + z^2/3! + ...
        while True:
            j = len(series)
            n = self.numerator[j] if j < len(self.numerator) else 0.0
            series.append(
                n - sum(self.denominator[i] * series[j - i] for i in range(1, min(j + 1, len(self.denominator))))
            )
            if abs(series[-1] * math.factorial(j + 1) - 1) > 1e-9:
                return j

    @property
    def is_explicit(self) -> bool:
        return len(self.denominator) == 1

    @cached_property
    def real_limit(self) -> float:
        return stability.real_limit(self._r, self.denominator)

    @cached_property
    def imaginary_limit(self) -> float:
        return stability.imaginary_limit(self._r, self.denominator)

    @cached_property
    def reflects_above(self) -> float:
        return stability.first_negative(np.convolve(_alternated(self._r), _alternated(self.denominator)))

    @cached_property
    def is_a_stable(self) -> bool:
        return stability.is_a_stable(self._r, self.denominator)

    @property
    def is_l_stable(self) -> bool:
        return self.is_a_stable and len(self._r) < len(self.denominator)


def theta(value: float) -> Rational:
    """The theta method: R = (1 + (1 - theta) z) / (1 - theta z), Q = 1 / (1 - theta z).

    0 is forward Euler, 1 backward Euler, 1/2 the implicit midpoint rule, which on a frozen linear part is also the
    trapezoidal rule and the Cayley transform (Hairer, Wanner II, section IV.3).

    Raises:
        ValueError: if value is not in [0, 1].
    """
    if not 0 <= value <= 1:
        raise ValueError(f"theta must lie in [0, 1], got {value}; 0.5 is the implicit midpoint rule.")
    return Rational(f"theta({value:g})", (1.0,), (1.0, -float(value)))


def _quotient(n: Coefficients, d: Coefficients, z: Any) -> Any:
    """N(z)/D(z). Beyond |z| = 1 in powers of 1/z, so that no power overflows: also right at infinity."""
    if not isinstance(z, Tensor):
        if len(d) == 1 or len(n) > len(d) or abs(z) <= 1:
            return _horner(n, z) / _horner(d, z)
        return _horner(_padded(n, len(d))[::-1], 1 / z) / _horner(d[::-1], 1 / z)
    z = at_least_single(z)
    if len(d) == 1:
        return _horner(n, z)
    if len(n) > len(d):
        return _horner(n, z) / _horner(d, z)
    large = z.abs() > 1
    near, far = torch.where(large, 0, z), torch.where(large, z, 1).reciprocal()
    return torch.where(
        large,
        _horner(_padded(n, len(d))[::-1], far) / _horner(d[::-1], far),
        _horner(n, near) / _horner(d, near),
    )


def _horner(c: Coefficients, z: Any) -> Any:
    value: Any = torch.full_like(z, c[-1]) if isinstance(z, Tensor) else c[-1]
    for x in c[-2::-1]:
        value = value * z + x
    return value


def _of_matrix(c: Coefficients, m: Tensor) -> Tensor:
    """sum_i c_i m^i, [.., n, n]."""
    eye = torch.eye(m.shape[-1], dtype=m.dtype, device=m.device)
    if len(c) == 1:
        return (c[0] * eye).expand_as(m)
    value = c[-1] * m + c[-2] * eye
    for x in c[-3::-1]:
        value = value @ m + x * eye
    return value


def _trimmed(c: Sequence[float]) -> Coefficients:
    """Without trailing zeros, up to rounding."""
    values = [0.0 if abs(x) < _ZERO else float(x) for x in c]
    while len(values) > 1 and values[-1] == 0:
        values.pop()
    return tuple(values)


def _padded(c: Coefficients, length: int) -> Coefficients:
    return c + (0.0,) * (length - len(c))


def _sum(c: Coefficients, d: Coefficients) -> Coefficients:
    length = max(len(c), len(d))
    return tuple(x + y for x, y in zip(_padded(c, length), _padded(d, length)))


def _alternated(c: Coefficients) -> Coefficients:
    """The coefficients of c(-x)."""
    return tuple(x if i % 2 == 0 else -x for i, x in enumerate(c))


def _dot(x: Sequence[Fraction], y: Sequence[Fraction]) -> Fraction:
    return sum((a * b for a, b in zip(x, y)), Fraction(0))


def _determinant(a: list[list[Fraction]]) -> list[Fraction]:
    """Coefficients of det(I - z a) by the recursion of Faddeev and Le Verrier."""
    s = len(a)
    d, m = [Fraction(1)], [[Fraction(int(i == j)) for j in range(s)] for i in range(s)]
    for k in range(1, s + 1):
        columns = list(zip(*m))
        m = [[_dot(row, column) for column in columns] for row in a]
        d.append(-sum((m[i][i] for i in range(s)), Fraction(0)) / k)
        for i in range(s):
            m[i][i] += d[-1]
    return d
