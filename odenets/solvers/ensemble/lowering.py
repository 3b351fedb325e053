"""Functions that Triton lacks, from those that it has: exponentials and logarithms, without loss near zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ..errors import InputError
from .scalars import Scalar, apply, ordered, rebuilt, where

NATIVE = frozenset({
    "add", "sub", "mul", "div", "neg", "abs", "sqrt", "exp", "log", "sin", "cos", "erf", "floor", "ceil", "max", "min", "lt",
    "le", "gt", "ge", "eq", "ne", "and", "or", "not", "where", "cast", "const", "lane", "shared",
})  # fmt: skip


def _expm1(x: Scalar) -> Scalar:
    """(u - 1) x / log u for u = e^x: the rounding errors of u cancel (W. Kahan)."""
    u = apply("exp", x)
    inner = where(apply("eq", u - 1.0, -1.0), u - 1.0, (u - 1.0) * x / apply("log", u))
    return where(apply("eq", u, 1.0), x, where(apply("eq", u, math.inf), u, inner))


def _log1p(x: Scalar) -> Scalar:
    """x log u / (u - 1) for u = 1 + x, likewise."""
    u = 1.0 + x
    return where(apply("eq", u, 1.0), x, apply("log", u) * x / (u - 1.0))


def _signed(x: Scalar, positive: Scalar) -> Scalar:
    return where(apply("lt", x, 0.0), -positive, positive)


def _tanh(x: Scalar) -> Scalar:
    m = _expm1(-2.0 * apply("abs", x))
    return _signed(x, -m / (m + 2.0))


def _sinh(x: Scalar) -> Scalar:
    m = _expm1(apply("abs", x))
    return _signed(x, where(apply("eq", m, math.inf), m, 0.5 * (m + m / (m + 1.0))))


def _pow(x: Scalar, y: Scalar) -> Scalar:
    """For positive x, and zero; whole powers are products already."""
    at_zero = where(apply("gt", y, 0.0), x, 1.0 / x)
    return where(apply("eq", x, 0.0), at_zero, apply("exp", y * apply("log", x)))


_FORMULAS: dict[str, Callable[..., Scalar]] = {
    "expm1": _expm1,
    "log1p": _log1p,
    "tanh": _tanh,
    "sinh": _sinh,
    "cosh": lambda x: 0.5 * (apply("exp", x) + apply("exp", -x)),
    "tan": lambda x: apply("sin", x) / apply("cos", x),
    "pow": _pow,
}  # fmt: skip


def lowered(outputs: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The same expressions in operations of `NATIVE`. Raises InputError for a function that has no formula here."""
    done: dict[int, Scalar] = {}
    for x in ordered(outputs.values()):
        args = [done[id(arg)] for arg in x.args]
        if x.op in NATIVE:
            done[id(x)] = rebuilt(x, args)
        elif x.op in _FORMULAS:
            done[id(x)] = _FORMULAS[x.op](*args)
        else:
            raise InputError(f"ensemble=True has no {x.op} on a GPU: solve on the CPU, or use per_sample=True.")
    return {name: done[id(x)] for name, x in outputs.items()}
