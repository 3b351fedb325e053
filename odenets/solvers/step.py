"""One Runge-Kutta step, as a pure function of tensors.

No `.item()`, no Python branch on a tensor's value: the same code runs eagerly, inside `torch.compile`, and inside
`while_loop`. The step size is a Python float (the loops that read one number per step: it folds into the kernels'
arguments), a 0-dim tensor (when gradients flow through it, or when the host must not know it), or [batch, 1, ...]
(one step size per sample).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .tableau import ButcherTableau

Field = Callable[[Tensor, Tensor], Tensor]
StepSize = float | Tensor


def carries_derivative(x: Tensor) -> bool:
    """Whether derivatives flow through x: backward ones, or forward ones (jvp)."""
    if x.requires_grad:
        return torch.is_grad_enabled()
    return torch._C._functorch.is_functorch_wrapped_tensor(x) or (
        forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None
    )


class Trial(NamedTuple):
    """The outcome of one step, accepted or not.

    Attributes:
        y1: new state [*state].
        error: estimate of the local error [*state], None for a method without one.
        stages: k_1 ... k_s, each [*state].
        failed: whether the step could not be computed at all (its equations were not solved), a bool, or [batch]
            where every sample has its own clock.
        updates: of an iteration inside the step, on the whole batch [], where the host does not count them.
        ratio: norm of the error divided by atol + rtol max(|y|, |y1|), [] or [batch], from a step that computes it
            instead of the error.
    """

    y1: Tensor
    error: Tensor | None
    stages: list[Tensor]
    failed: bool | Tensor = False
    updates: Tensor | None = None
    ratio: Tensor | None = None


def weighted_sum(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor | None:
    """sum_i w_i x_i over the non-zero weights; None if there are none. May be one of the tensors itself."""
    total = None
    for weight, tensor in zip(weights, tensors):
        if weight == 0:
            continue
        if total is None:
            total = tensor if weight == 1 else tensor * weight
        else:
            total = torch.add(total, tensor, alpha=weight)
    return total


def add_scaled(y: Tensor, h: StepSize, increment: Tensor | None) -> Tensor:
    """y + h * increment, in y's dtype."""
    if increment is None:
        return y
    if isinstance(h, Tensor):
        return torch.addcmul(y, increment, h if h.dtype == increment.dtype else h.to(increment.dtype))
    return torch.add(y, increment, alpha=h)


def over_state(x: Tensor, y: Tensor) -> Tensor:
    """A number per sample [batch] (or one, []) shaped to broadcast against the state y [batch, ...]."""
    return x.reshape(*x.shape, *([1] * (y.dim() - x.dim()))) if x.dim() else x


def stage_times(nodes: Tensor, t: Tensor, h: StepSize, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """t + c_i h for every node, each shaped like t, in the field's time dtype.

    Args:
        nodes: the tableau's c as a tensor [s] of the times' dtype.
        t: time [] or [batch].
        h: step size, a float or shaped like t.
    """
    if t.dim():
        nodes = nodes.reshape(-1, *([1] * t.dim()))
    times = torch.addcmul(t, nodes, h) if isinstance(h, Tensor) else torch.add(t, nodes, alpha=h)
    return (times if times.dtype == dtype else times.to(dtype)).unbind()


def runge_kutta_step(
    field: Field,
    tableau: ButcherTableau,
    times: Sequence[Tensor],
    h: StepSize,
    y: Tensor,
    f0: Tensor,
    with_error: bool = True,
) -> Trial:
    """One step of an explicit method (HNW section II.1, eq. 1.8).

    Args:
        field: f(t, y) -> dy/dt [*state].
        tableau: the method.
        times: the stages' times, from `stage_times`.
        h: step size, broadcastable against y.
        y: state [*state].
        f0: f(t, y), the first stage.
        with_error: whether to form the error estimate.
    """
    stages = [f0]
    y1 = y
    for row, time in zip(tableau.a[1:], times[1:]):
        y1 = add_scaled(y, h, weighted_sum(row, stages))
        stages.append(field(time, y1))
    if not tableau.fsal:  # otherwise the last stage was evaluated at the new state itself
        y1 = add_scaled(y, h, weighted_sum(tableau.b, stages))
    error = None
    if with_error and tableau.b_error is not None:
        error = weighted_sum(tableau.b_error, stages)
        assert error is not None
        error = error * h
    return Trial(y1, error, stages)


def error_ratio(error: Tensor, y0: Tensor, y1: Tensor, rtol: float | Tensor, atol: float | Tensor) -> Tensor:
    """The error divided by atol + rtol max(|y0|, |y1|), elementwise [*state] (HNW section II.4, eq. 4.10).

    In single precision for half-precision states, in which small tolerances would round to zero.
    """
    if error.dtype in (torch.float16, torch.bfloat16):
        error, y0, y1 = error.float(), y0.float(), y1.float()
    scale = torch.maximum(y0.abs(), y1.abs()) * rtol + atol
    return error / scale
