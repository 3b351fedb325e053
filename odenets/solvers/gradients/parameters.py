"""What a solve is differentiated with respect to, besides y0 and the times."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import InputError


def parameters_of(
    field: Any, args: tuple[Any, ...], params: Sequence[Tensor] | None, gradient: str
) -> tuple[Tensor, ...]:
    """The given params, else the field's parameters and the tensors in args, that require grad; each once.

    Raises InputError, naming `gradient`, for a plain function without params.
    """
    if params is None:
        function = field.func if isinstance(field, functools.partial) else field
        owner = getattr(function, "__self__", function)  # a module's bound method stands for the module
        if not isinstance(owner, nn.Module):
            raise InputError(
                f"gradient={gradient!r} cannot see what a plain function depends on: make the field an nn.Module, or "
                "pass params=(...), () if there is nothing to differentiate but y0 and ts."
            )
        bound = (field.args, field.keywords) if isinstance(field, functools.partial) else ()
        params = [*find_parameters(owner)]
        for leaf in pytree.tree_leaves((args, bound)):
            params += find_parameters(leaf) if isinstance(leaf, nn.Module) else [leaf] * isinstance(leaf, Tensor)
    return distinct(params)


def find_parameters(module: nn.Module) -> list[Tensor]:
    """The module's parameters; inside DataParallel's replicas they are plain tensors found in the modules' dicts."""
    if getattr(module, "_is_replica", False):
        return [
            value
            for part in module.modules()
            for value in part.__dict__.values()
            if isinstance(value, Tensor) and value.requires_grad
        ]
    return list(module.parameters())


def distinct(params: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Those that require grad, each once: a tensor given twice would get its gradient twice."""
    return tuple({id(p): p for p in params if p.requires_grad}.values())
