"""Schemes by name."""

from __future__ import annotations

import difflib
import functools
import re

from odenets.flows.exponential import Exponential
from odenets.flows.rational import Rational, theta
from odenets.flows.scheme import Scheme
from odenets.solvers import TABLEAUS, ButcherTableau

RADAU_IIA3 = ButcherTableau("radau_iia3", 3, a=((5 / 12, -1 / 12), (3 / 4, 1 / 4)), b=(3 / 4, 1 / 4), c=(1 / 3, 1.0))
"""Radau IIA of order 3 (Hairer, Wanner II, section IV.5): L-stable, R = (1 + z/3) / (1 - 2z/3 + z^2/6)."""

SCHEMES: dict[str, Scheme] = {
    "forward_euler": Rational("forward_euler", (1.0,)),
    "backward_euler": Rational("backward_euler", (1.0,), (1.0, -1.0)),
    "implicit_midpoint": Rational("implicit_midpoint", (1.0,), (1.0, -0.5)),
    "exponential": Exponential(),
    "radau_iia3": Rational.from_tableau(RADAU_IIA3),
}
"""The schemes with a name of their own; those of `odenets.solvers.TABLEAUS` come on top."""

ALIASES = {
    "euler": "forward_euler",
    "explicit_euler": "forward_euler",
    "implicit_euler": "backward_euler",
    "trapezoid": "implicit_midpoint",
    "cayley": "implicit_midpoint",
    "rk2": "midpoint",
    "radauIIA3": "radau_iia3",
}


def resolve_scheme(scheme: str | Scheme | ButcherTableau) -> Scheme:
    """A scheme from its name, from a Butcher tableau, or as it is.

    Names: those of SCHEMES and ALIASES, any of `odenets.solvers.TABLEAUS`, and "theta(0.7)".

    Raises:
        ValueError: for an unknown name, with the near matches, or another type.
    """
    if isinstance(scheme, Scheme):
        return scheme
    if isinstance(scheme, ButcherTableau):
        return _of_tableau(scheme)
    if not isinstance(scheme, str):
        raise ValueError(f"scheme must be a name, a Scheme or a ButcherTableau, got {type(scheme).__name__}.")
    name = ALIASES.get(scheme, scheme)
    if name in SCHEMES:
        return SCHEMES[name]
    if name in TABLEAUS:
        return _of_tableau(TABLEAUS[name])
    with_value = re.fullmatch(r"theta\(([0-9.eE+-]+)\)", name)
    if with_value:
        return theta(float(with_value[1]))
    known = [*SCHEMES, *ALIASES, *TABLEAUS, "theta(0.5)"]
    near = difflib.get_close_matches(name, known, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(known)}."
    raise ValueError(f"unknown scheme {scheme!r}; {hint}")


@functools.cache
def _of_tableau(tableau: ButcherTableau) -> Rational:
    """Once per tableau: the exact arithmetic takes longer than a step."""
    return Rational.from_tableau(tableau)
