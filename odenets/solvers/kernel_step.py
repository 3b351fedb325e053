"""One Runge-Kutta step by the kernels of `odenets.kernels.runge_kutta`: the same result as `step.runge_kutta_step`, every
stage read once for each sum, the error never written. For eager loops on large states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd import forward_ad

from odenets.kernels.backend import DTYPES, fused
from odenets.kernels.runge_kutta import finish, stage_sum

from .norms import rms_norm, rms_norm_per_sample
from .step import Field, StepSize, Trial, weighted_sum
from .tableau import ButcherTableau

if TYPE_CHECKING:
    from .one_step import Accuracy

LEAST = 2**22
"""Numbers of a state from which on the kernels are taken. Below, launching them costs the host more than they save on
the device: an estimate from bytes and launches, not measured."""


def takes_kernels(y: Tensor, f0: Tensor) -> bool:
    """Whether a step from the state y with slope f0 goes through the kernels: large states on a GPU, outside programs
    that are being compiled and of functorch's transforms, or whatever `prefer("triton")` wants."""
    if not fused(y) or torch.compiler.is_compiling():
        return False
    if y.dtype not in DTYPES or f0.dtype != y.dtype or (y.is_cuda and y.numel() < LEAST):
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return type(y) is type(f0) is Tensor and forward_ad._current_level < 0 and not (wrapped(y) or wrapped(f0))


def kernel_step(
    field: Field,
    tableau: ButcherTableau,
    times: Sequence[Tensor],
    h: StepSize,
    y: Tensor,
    f0: Tensor,
    accuracy: Accuracy,
    with_error: bool,
) -> Trial:
    """As `runge_kutta_step`; with the norm of the scaled error in the place of the error where the kernel knows it."""
    size = h if isinstance(h, Tensor) else torch.full((), h, dtype=torch.float32, device=y.device)
    size = size.reshape(size.shape[:1])  # one step size, or one for each sample
    stages, y1 = [f0], y
    for row, time in zip(tableau.a[1:], times[1:]):
        y1 = stage_sum(y, size, row[: len(stages)], stages)
        stages.append(field(time, y1))
    if not with_error or tableau.b_error is None:
        return Trial(y1 if tableau.fsal else stage_sum(y, size, tableau.b, stages), None, stages)
    rtol, atol = accuracy.rtol, accuracy.atol
    norm = rms_norm_per_sample if size.dim() else rms_norm
    if accuracy.norm is not norm or isinstance(rtol, Tensor) or isinstance(atol, Tensor):
        error = weighted_sum(tableau.b_error, stages)
        assert error is not None
        return Trial(y1 if tableau.fsal else stage_sum(y, size, tableau.b, stages), error * h, stages)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not tableau.fsal):
        new, ratio = finish(y, size, tableau.b, tableau.b_error, stages, rtol, atol)
    return Trial(y1 if tableau.fsal else new, None, stages, ratio=ratio)
