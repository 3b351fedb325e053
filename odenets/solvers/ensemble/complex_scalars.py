"""Complex numbers as pairs of scalar expressions, and their linear systems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .scalars import Scalar, apply, lane, where
from .stages import PivotedLU


@dataclass(frozen=True)
class Complex:
    re: Scalar
    im: Scalar

    def __sub__(self, other: Complex) -> Complex:
        return Complex(self.re - other.re, self.im - other.im)

    def __mul__(self, other: Complex) -> Complex:
        return Complex(self.re * other.re - self.im * other.im, self.re * other.im + self.im * other.re)


class ComplexLU(PivotedLU):
    """`PivotedLU` of `Complex` entries, with |re| + |im| to choose the pivots by."""

    @staticmethod
    def magnitude(x: Any) -> Scalar:
        return apply("abs", x.re) + apply("abs", x.im)

    @staticmethod
    def inverse(x: Any) -> Any:
        scale = 1.0 / (x.re * x.re + x.im * x.im)
        return Complex(x.re * scale, -(x.im * scale))

    @staticmethod
    def chosen(condition: Scalar, x: Any, y: Any) -> Any:
        return Complex(where(condition, x.re, y.re), where(condition, x.im, y.im))

    @staticmethod
    def named(prefix: str, x: Any) -> dict[str, Scalar]:
        return {f"{prefix}r": x.re, f"{prefix}i": x.im}

    @staticmethod
    def entry(prefix: str) -> Any:
        return Complex(lane(f"{prefix}r"), lane(f"{prefix}i"))
