"""Which implementation of an operator runs: `backend="auto" | "reference" | "triton"`."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator

import torch
from torch import Tensor

BACKENDS = ("auto", "reference", "triton")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_INSTALLED = importlib.util.find_spec("triton") is not None
_log = logging.getLogger(__name__)
_preferred = ["auto"]  # the innermost `prefer` is last
chosen: dict[str, str] = {}
"""What ran last, per operator: `{"delta": "triton"}`, for a run's log."""


def choose(operator: str, backend: str, *tensors: Tensor) -> str:
    """ "reference" or "triton" for an operator on these tensors; `auto` takes Triton for CUDA tensors that it can take.

    Raises:
        ValueError: an unknown backend, or backend="triton" where Triton cannot run, with the reason.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend= takes one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "auto":
        backend = _preferred[-1]
    if backend == "reference" or (backend == "auto" and not tensors[0].is_cuda):
        name = "reference"
    else:
        obstacle = why_not_triton(*tensors)
        if backend == "triton" and obstacle:
            raise ValueError(f"{operator}: backend='triton' cannot run: {obstacle}")
        name = "reference" if obstacle else "triton"
    if not torch.compiler.is_compiling() and chosen.get(operator) != name:
        chosen[operator] = name
        _log.info("%s runs on the %s backend", operator, name)
    return name


@contextlib.contextmanager
def prefer(backend: str) -> Iterator[None]:
    """Inside, what is left to "auto" runs on this backend: "triton" for models on the CPU under the interpreter,
    "reference" to check a model on a GPU.

    Raises:
        ValueError: an unknown backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend= takes one of {', '.join(BACKENDS)}, got {backend!r}")
    _preferred.append(backend)
    try:
        yield
    finally:
        _preferred.pop()


def fused(x: Tensor) -> bool:
    """Whether a caller that has a path of its own for the CPU should take the operator's instead."""
    wanted = _preferred[-1]
    return wanted == "triton" or (wanted == "auto" and x.is_cuda and x.dtype in DTYPES and _INSTALLED)


def why_not_triton(*tensors: Tensor) -> str:
    """The reason why Triton cannot take these tensors; empty if it can."""
    if not _INSTALLED:
        return "triton is not installed; use backend='reference'"
    first = tensors[0]
    if any(x.device != first.device for x in tensors):
        return f"its tensors lie on different devices: {', '.join(sorted({str(x.device) for x in tensors}))}"
    if not first.is_cuda and not interpreted():
        return f"it needs a CUDA device, got a tensor on {first.device} (TRITON_INTERPRET=1 runs it on the CPU, slowly)"
    wrong = [x.dtype for x in tensors if x.dtype not in DTYPES]
    return f"it takes float32, bfloat16 and float16, got {wrong[0]}; use backend='reference'" if wrong else ""


def interpreted() -> bool:
    """Whether Triton's interpreter is switched on."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def on_device_of(x: Tensor) -> contextlib.AbstractContextManager:
    """Kernels are launched on the current device: make it the tensor's."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
