"""Gradients that cannot be differentiated again, and say so."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def differentiable_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """For the backward of an `autograd.Function`: differentiating its gradients raises RuntimeError.

    PyTorch's `once_differentiable` attaches that error only where the incoming gradient requires one. That of a plain sum
    does not, and a second derivative would silently lack what goes through the solve.
    """

    @functools.wraps(backward)
    def wrapper(ctx: Any, *gradients: Any) -> Any:
        with torch.no_grad():
            found = backward(ctx, *gradients)
        if not torch.is_grad_enabled():  # no graph of the gradients is made
            return found
        parts = found if isinstance(found, tuple) else (found,)
        tensors = [x.detach().requires_grad_() for x in parts if isinstance(x, Tensor)]
        if not tensors:
            return found
        message = b"this gradient cannot be differentiated again; through the steps: gradient='autograd', compile=False"
        marked = torch._C._functions.DelayedError(message, len(tensors))(*tensors)
        rest = iter(marked if isinstance(marked, tuple) else (marked,))
        parts = tuple(next(rest) if isinstance(x, Tensor) else x for x in parts)
        return parts if isinstance(found, tuple) else parts[0]

    return wrapper
