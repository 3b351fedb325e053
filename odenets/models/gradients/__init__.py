"""How a stack of blocks is differentiated: one class and one file per method, named in `gradient=`.

| method | kept per token, for N steps | evaluated again | needs |
|---|---|---|---|
| autograd | N (D + a) | nothing | |
| checkpoint | N/every D + every (D + a) | every step once | |
| recursive | slots D + a | every step up to r times, N <= C(slots + r, r) | |
| reversible | D + a | the branches once | blocks with an inverse |
| downdate | D + a + N (d + d_v), or N (C + n^2 + n) | every step once | delta blocks, streams |
| selective | D N/every + D every + N C, and the branches' own a | the operators on streams | streams |

D is a state, a what autograd keeps inside a block. A new method is a frozen dataclass of its settings that derives from
`StackGradient`, its line in `STACK_GRADIENTS`, its file in `configs/gradient/` and its entry in the tests.
"""

from __future__ import annotations

import dataclasses
import difflib

from odenets.models.gradients.base import Autograd, StackGradient
from odenets.models.gradients.checkpoint import Checkpoint
from odenets.models.gradients.downdate import Downdate
from odenets.models.gradients.recursive import Recursive
from odenets.models.gradients.reversible import Reversible
from odenets.models.gradients.selective import Selective
from odenets.solvers import Gradient

STACK_GRADIENTS: dict[str, type[StackGradient]] = {
    method.name: method for method in (Autograd, Checkpoint, Recursive, Reversible, Downdate, Selective)
}


def resolve_stack_gradient(gradient: StackGradient | Gradient | str) -> StackGradient:
    """A stack's gradient method from its name, or from a solver's method of the same name and its settings.

    Raises:
        ValueError: a name or a solver's method that stacks do not have.
    """
    if isinstance(gradient, StackGradient):
        return gradient
    name = gradient.name if isinstance(gradient, Gradient) else str(gradient)
    if name not in STACK_GRADIENTS:
        near = difflib.get_close_matches(name, STACK_GRADIENTS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(STACK_GRADIENTS)}"
        raise ValueError(f"gradient={name}: a stack of blocks has no such method; {hint}")
    method = STACK_GRADIENTS[name]
    if not isinstance(gradient, Gradient):
        return method()
    names = {f.name for f in dataclasses.fields(method)}  # type: ignore[arg-type]
    given = {f.name: getattr(gradient, f.name) for f in dataclasses.fields(gradient)}  # type: ignore[arg-type]
    return method(**{key: value for key, value in given.items() if key in names})


__all__ = [
    "STACK_GRADIENTS",
    "Autograd",
    "Checkpoint",
    "Downdate",
    "Recursive",
    "Reversible",
    "Selective",
    "StackGradient",
    "resolve_stack_gradient",
]
