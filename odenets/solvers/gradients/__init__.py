"""How a solve is differentiated: one class and one file per method, named in `gradient=`.

A new method is a frozen dataclass of its settings that derives from `Gradient`, its line in `GRADIENTS` below, its
file in `configs/gradient/` and its entry in the conformance test.
"""

from __future__ import annotations

from ..errors import InputError, near_names
from .adjoint import Adjoint, AdjointProblem, adjoint_solve
from .auto import Auto
from .autograd import Autograd
from .base import Gradient, SolveProblem
from .checkpoint import Checkpoint
from .discrete_adjoint import DiscreteAdjoint
from .forward import Forward
from .interpolating_adjoint import InterpolatingAdjoint
from .recursive import Recursive
from .reversible import Reversible

_METHODS: tuple[type[Gradient], ...] = (
    Auto, Autograd, Checkpoint, Recursive, DiscreteAdjoint, Reversible, Adjoint, InterpolatingAdjoint, Forward,
)  # fmt: skip
GRADIENTS: dict[str, type[Gradient]] = {method.name: method for method in _METHODS}


def resolve_gradient(gradient: Gradient | str) -> Gradient:
    """A gradient method from its name, with its default settings. Raises InputError for an unknown one."""
    if isinstance(gradient, Gradient):
        return gradient
    if gradient not in GRADIENTS:
        raise InputError(f"unknown gradient {gradient!r}{near_names(str(gradient), GRADIENTS)}")
    return GRADIENTS[gradient]()


__all__ = [
    "GRADIENTS",
    "Adjoint",
    "AdjointProblem",
    "Auto",
    "Autograd",
    "Checkpoint",
    "DiscreteAdjoint",
    "Forward",
    "Gradient",
    "InterpolatingAdjoint",
    "Recursive",
    "Reversible",
    "SolveProblem",
    "adjoint_solve",
    "resolve_gradient",
]
