"""Scalar expressions: the graph of numbers that a trajectory's solve is made of, from which every backend writes code.

A `Scalar` is an operation on other scalars; nothing is computed when one is made, except between constants. Its kind
says how it is stored: "real" (the state's precision), "time" (float64), "bool".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

Kind = str

UNARY: dict[str, Callable[[float], float]] = {
    "neg": lambda x: -x, "abs": abs, "sqrt": math.sqrt, "exp": math.exp, "log": math.log, "sin": math.sin,
    "cos": math.cos, "tan": math.tan, "asin": math.asin, "acos": math.acos, "atan": math.atan, "sinh": math.sinh,
    "cosh": math.cosh, "tanh": math.tanh, "expm1": math.expm1, "log1p": math.log1p, "erf": math.erf,
    "floor": math.floor, "ceil": math.ceil,
}  # fmt: skip
BINARY: dict[str, Callable[[float, float], float]] = {
    "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y, "div": lambda x, y: x / y,
    "pow": lambda x, y: x**y, "max": max, "min": min, "atan2": math.atan2,
}  # fmt: skip
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
LOGIC = ("and", "or", "not")


class Scalar:
    """A number that is known when the code runs.

    Attributes:
        op: "const", "lane" (one value per trajectory, by name), "shared" (one for all, by name), or an operation.
        args: its operands.
        kind: "real", "time" or "bool".
        value: of a constant, name of a lane or a shared number.
    """

    __slots__ = ("args", "kind", "op", "value")

    def __init__(self, op: str, args: tuple[Scalar, ...], kind: Kind, value: float | str | None = None) -> None:
        self.op, self.args, self.kind, self.value = op, args, kind, value

    def __repr__(self) -> str:
        return f"{self.op}({', '.join(map(repr, self.args)) if self.args else self.value})"

    def __bool__(self) -> bool:
        raise TypeError("a scalar of the traced field has no value yet")

    def __add__(self, other: Scalar | float) -> Scalar:
        return apply("add", self, other)

    def __radd__(self, other: Scalar | float) -> Scalar:
        return apply("add", other, self)

    def __sub__(self, other: Scalar | float) -> Scalar:
        return apply("sub", self, other)

    def __rsub__(self, other: Scalar | float) -> Scalar:
        return apply("sub", other, self)

    def __mul__(self, other: Scalar | float) -> Scalar:
        return apply("mul", self, other)

    def __rmul__(self, other: Scalar | float) -> Scalar:
        return apply("mul", other, self)

    def __truediv__(self, other: Scalar | float) -> Scalar:
        return apply("div", self, other)

    def __rtruediv__(self, other: Scalar | float) -> Scalar:
        return apply("div", other, self)

    def __neg__(self) -> Scalar:
        return apply("neg", self)


def const(value: float, kind: Kind = "real") -> Scalar:
    return Scalar("const", (), kind, bool(value) if kind == "bool" else float(value))


def lane(name: str, kind: Kind = "real") -> Scalar:
    """A number that every trajectory has its own of."""
    return Scalar("lane", (), kind, name)


def shared(name: str, kind: Kind = "real") -> Scalar:
    """A number that all trajectories share."""
    return Scalar("shared", (), kind, name)


def is_const(x: Scalar, value: float | None = None) -> bool:
    return x.op == "const" and (value is None or x.value == value)


def apply(op: str, *operands: Scalar | float) -> Scalar:
    """op of the operands. Numbers take the kind of the scalars beside them; constants are folded, 0 and 1 left out."""
    scalars = [x for x in operands if isinstance(x, Scalar)]
    kind = scalars[0].kind if scalars else "real"
    args = tuple(x if isinstance(x, Scalar) else const(x, kind) for x in operands)
    assert all(x.kind == kind for x in args), (op, [x.kind for x in args])
    if op in COMPARISONS or op in LOGIC:
        return Scalar(op, args, "bool")
    folded = _folded(op, args)
    return folded if folded is not None else Scalar(op, args, kind)


def _folded(op: str, args: tuple[Scalar, ...]) -> Scalar | None:
    if all(x.op == "const" for x in args):
        table: dict[str, Callable[..., float]] = {**UNARY, **BINARY}
        try:
            return const(table[op](*(x.value for x in args)), args[0].kind)
        except (ValueError, ZeroDivisionError, OverflowError):
            return None  # NaN or infinity is made where the code runs
    if len(args) == 1:
        return None
    x, y = args
    if op == "add" and is_const(x, 0.0):
        return y
    if op in ("add", "sub") and is_const(y, 0.0):
        return x
    if op == "sub" and is_const(x, 0.0):
        return apply("neg", y)
    if op == "mul":
        for a, b in ((x, y), (y, x)):
            if is_const(a, 0.0) or is_const(a, 1.0):
                return a if is_const(a, 0.0) else b
            if is_const(a, -1.0):
                return apply("neg", b)
    if op == "div" and (is_const(y, 1.0) or is_const(x, 0.0)):
        return x
    return _power(x, float(y.value)) if op == "pow" and y.op == "const" else None  # type: ignore[arg-type]


def _power(x: Scalar, exponent: float) -> Scalar | None:
    """Small whole and half powers by products and roots."""
    if exponent == 0.5:
        return apply("sqrt", x)
    if not (exponent.is_integer() and abs(exponent) <= 16):
        return None
    if exponent <= 0:
        return const(1.0, x.kind) if exponent == 0 else 1.0 / apply("pow", x, -exponent)
    if exponent == 1:
        return x
    half = apply("pow", x, exponent // 2)
    return half * half * x if exponent % 2 else half * half


def where(condition: Scalar, x: Scalar | float, y: Scalar | float) -> Scalar:
    kind = next((v.kind for v in (x, y) if isinstance(v, Scalar)), "real")
    a, b = (v if isinstance(v, Scalar) else const(v, kind) for v in (x, y))
    assert (a.kind, condition.kind) == (b.kind, "bool")
    if condition.op == "const":
        return a if condition.value else b
    return a if a is b else Scalar("where", (condition, a, b), kind)


def cast(x: Scalar, kind: Kind) -> Scalar:
    """The same number stored as another kind; a bool becomes 0 or 1."""
    if x.kind == kind:
        return x
    if x.kind == "bool":
        return where(x, const(1.0, kind), const(0.0, kind))
    if kind == "bool":
        return apply("ne", x, 0.0)
    return const(float(x.value), kind) if x.op == "const" else Scalar("cast", (x,), kind)  # type: ignore[arg-type]


def maximum(x: Scalar | float, y: Scalar | float) -> Scalar:
    return apply("max", x, y)


def minimum(x: Scalar | float, y: Scalar | float) -> Scalar:
    return apply("min", x, y)


def both(x: Scalar, y: Scalar) -> Scalar:
    return apply("and", x, y)


def either(x: Scalar, y: Scalar) -> Scalar:
    return apply("or", x, y)


def negated(x: Scalar) -> Scalar:
    return apply("not", x)


def weighted(weights: Sequence[float], terms: Sequence[Scalar]) -> Scalar | None:
    """sum_i w_i x_i over the non-zero weights, None without any."""
    total: Scalar | None = None
    for weight, term in zip(weights, terms):
        if weight != 0:
            part = term * float(weight)
            total = part if total is None else total + part
    return total


def ordered(outputs: Iterable[Scalar]) -> list[Scalar]:
    """All scalars that the outputs depend on, operands before what uses them."""
    seen: set[int] = set()
    order: list[Scalar] = []
    stack = [(x, False) for x in reversed(list(outputs))]
    while stack:
        x, ready = stack.pop()
        if ready:
            order.append(x)
        elif id(x) not in seen:
            seen.add(id(x))
            stack.append((x, True))
            stack.extend((arg, False) for arg in reversed(x.args) if id(arg) not in seen)
    return order


def rebuilt(x: Scalar, args: Sequence[Scalar]) -> Scalar:
    """The same operation on other operands."""
    if not x.args or all(a is b for a, b in zip(x.args, args)):
        return x
    if x.op == "where":
        return where(*args)
    return cast(args[0], x.kind) if x.op == "cast" else apply(x.op, *args)


def substitute(outputs: Sequence[Scalar], values: Mapping[str, Scalar]) -> list[Scalar]:
    """The outputs with other scalars in place of lanes and shared numbers (by name)."""
    done: dict[int, Scalar] = {}
    for x in ordered(outputs):
        if x.op in ("lane", "shared") and x.value in values:
            done[id(x)] = values[x.value]  # type: ignore[index]
        else:
            done[id(x)] = rebuilt(x, [done[id(arg)] for arg in x.args])
    return [done[id(x)] for x in outputs]


def key_of(outputs: Sequence[Scalar]) -> str:
    """Text that is the same for the same expressions."""
    lines: list[str] = []
    known: dict[str, int] = {}
    number: dict[int, int] = {}
    for x in ordered(outputs):
        line = f"{x.op} {x.kind} {x.value!r} " + " ".join(str(number[id(arg)]) for arg in x.args)
        if line not in known:
            known[line] = len(known)
            lines.append(line)
        number[id(x)] = known[line]
    return "\n".join([*lines, " ".join(str(number[id(x)]) for x in outputs)])
