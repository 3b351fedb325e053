"""Numbers that compiled programs are given at every call, as tensors that are made once."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def constant(role: str, value: float | tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The value as a tensor that nobody may write to. Two roles never share one: whether two inputs of a program are the
    same tensor is a thing that the compiler goes by.
    """
    return _made(role, value, dtype, device, torch.is_inference_mode_enabled())


@functools.lru_cache(maxsize=512)
def _made(
    role: str, value: float | tuple[float, ...], dtype: torch.dtype, device: torch.device, inference: bool
) -> Tensor:
    return torch.tensor(value, dtype=dtype, device=device)
