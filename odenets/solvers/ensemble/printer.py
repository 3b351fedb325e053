"""Scalar expressions as lines of code: every value once, operands before what uses them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .scalars import Scalar, ordered


@dataclass
class Code:
    """Straight-line code of a fragment.

    Attributes:
        lanes, shared: names of the lanes and shared numbers that it reads, with their kinds.
        lines: (variable, kind, expression) in order.
        results: for every output its name, kind, and the variable or literal that holds it.
    """

    lanes: dict[str, str]
    shared: dict[str, str]
    lines: list[tuple[str, str, str]]
    results: list[tuple[str, str, str]]


def printed(
    outputs: Mapping[str, Scalar],
    literal: Callable[[Scalar], str],
    expression: Callable[[Scalar, list[str]], str],
    prefix: str = "v",
    suffix: str = "",
) -> Code:
    """The outputs as code.

    Args:
        outputs: expressions by name.
        literal: a constant in the language.
        expression: an operation on variables or literals in the language.
        prefix: of the variables' names.
        suffix: of the names that lanes have in the code.
    """
    code = Code({}, {}, [], [])
    variable: dict[int, str] = {}
    known: dict[str, str] = {}
    for x in ordered(outputs.values()):
        if x.op == "const":
            text = literal(x)
        elif x.op in ("lane", "shared"):
            name = str(x.value)
            (code.lanes if x.op == "lane" else code.shared)[name] = x.kind
            text = name + suffix if x.op == "lane" else name
        else:
            formula = expression(x, [variable[id(arg)] for arg in x.args])
            key = f"{x.kind} {formula}"
            if key not in known:
                known[key] = f"{prefix}{len(known)}"
                code.lines.append((known[key], x.kind, formula))
            text = known[key]
        variable[id(x)] = text
    code.results = [(name, x.kind, variable[id(x)]) for name, x in outputs.items()]
    return code
