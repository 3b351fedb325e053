"""Forward-mode differentiation of scalar expressions: tangents are scalar expressions too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from .scalars import Scalar, apply, cast, const, is_const, ordered, where

# partial derivatives with respect to the operands, given the operation's own result r
_PARTIALS: dict[str, Callable[..., tuple[Scalar | float, ...]]] = {
    "neg": lambda r, x: (-1.0,),
    "abs": lambda r, x: (where(apply("lt", x, 0.0), -1.0, where(apply("gt", x, 0.0), const(1.0, x.kind), 0.0)),),
    "sqrt": lambda r, x: (0.5 / r,),
    "exp": lambda r, x: (r,),
    "log": lambda r, x: (1.0 / x,),
    "sin": lambda r, x: (apply("cos", x),),
    "cos": lambda r, x: (-apply("sin", x),),
    "tan": lambda r, x: (1.0 + r * r,),
    "asin": lambda r, x: (1.0 / apply("sqrt", 1.0 - x * x),),
    "acos": lambda r, x: (-1.0 / apply("sqrt", 1.0 - x * x),),
    "atan": lambda r, x: (1.0 / (1.0 + x * x),),
    "sinh": lambda r, x: (apply("cosh", x),),
    "cosh": lambda r, x: (apply("sinh", x),),
    "tanh": lambda r, x: (1.0 - r * r,),
    "expm1": lambda r, x: (r + 1.0,),
    "log1p": lambda r, x: (1.0 / (1.0 + x),),
    "erf": lambda r, x: (2 / math.sqrt(math.pi) * apply("exp", -(x * x)),),
    "floor": lambda r, x: (0.0,),
    "ceil": lambda r, x: (0.0,),
    "add": lambda r, x, y: (1.0, 1.0),
    "sub": lambda r, x, y: (1.0, -1.0),
    "mul": lambda r, x, y: (y, x),
    "div": lambda r, x, y: (1.0 / y, -r / y),
    "pow": lambda r, x, y: (y * apply("pow", x, y - 1.0), 0.0 if is_const(y) else r * apply("log", x)),
    # at a tie half of each, as autograd has it
    "max": lambda r, x, y: _shares(apply("gt", x, y), apply("eq", x, y), x.kind),
    "min": lambda r, x, y: _shares(apply("lt", x, y), apply("eq", x, y), x.kind),
    "atan2": lambda r, y, x: (x / (x * x + y * y), -y / (x * x + y * y)),
}


def _shares(first: Scalar, tie: Scalar, kind: str) -> tuple[Scalar, Scalar]:
    half = const(0.5, kind)
    return where(first, const(1.0, kind), where(tie, half, 0.0)), where(first, const(0.0, kind), where(tie, half, 1.0))


def tangents(outputs: Sequence[Scalar], seeds: Mapping[str, Scalar | float]) -> list[Scalar]:
    """Derivative of every output along a direction.

    Args:
        outputs: expressions.
        seeds: the direction: derivatives of lanes and shared numbers by name; 0 for those left out.
    """
    along: dict[int, Scalar | None] = {}
    for x in ordered(outputs):
        along[id(x)] = _tangent(x, [along[id(arg)] for arg in x.args], seeds)
    found = [(x, along[id(x)]) for x in outputs]
    return [const(0.0, x.kind) if tangent is None else tangent for x, tangent in found]


def _tangent(x: Scalar, inner: list[Scalar | None], seeds: Mapping[str, Scalar | float]) -> Scalar | None:
    if x.op in ("lane", "shared"):
        seed = seeds.get(x.value, 0.0)  # type: ignore[arg-type]
        tangent = seed if isinstance(seed, Scalar) else const(seed, x.kind)
        return None if is_const(tangent, 0.0) else tangent
    if x.kind == "bool" or all(v is None for v in inner[x.op == "where" :]):
        return None
    if x.op == "cast":
        assert inner[0] is not None
        return cast(inner[0], x.kind)
    if x.op == "where":
        zero = const(0.0, x.kind)
        first, second = (zero if v is None else v for v in inner[1:])
        return where(x.args[0], first, second)
    total: Scalar | None = None
    for partial, along in zip(_PARTIALS[x.op](x, *x.args), inner):
        if along is not None:
            part = along * partial
            if not is_const(part, 0.0):
                total = part if total is None else total + part
    return total
