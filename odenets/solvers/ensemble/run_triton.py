"""Runs a program on a GPU (or by Triton's interpreter on the CPU): the kernel as a module, and its launch."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from odenets.kernels.backend import interpreted, on_device_of

from ..errors import InputError
from .build import MOST_KEPT, drop_oldest, folder
from .fragments import Program
from .problem import SETTINGS, Buffers, Inputs
from .sources import source_of
from .triton_source import POINTERS, source

BLOCK = 32  # a warp: it walks until its last trajectory has arrived
_REAL = {torch.float64: "float64", torch.float32: "float32"}


@functools.lru_cache(maxsize=128)
def kernel(text: str) -> Any:
    """The kernel of a module's source: Triton reads it from a file."""
    name = "ensemble_" + hashlib.sha256(text.encode()).hexdigest()[:32]
    path = folder() / f"{name}.py"
    if not path.exists():
        scratch = path.with_suffix(f".{os.getpid()}")
        scratch.write_text(text)
        os.replace(scratch, path)
        drop_oldest(path.parent, "*.py", MOST_KEPT)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ensemble_kernel


def run(program: Program, inputs: Inputs, buffers: Buffers) -> None:
    """Solve every trajectory of the inputs into the buffers."""
    if not inputs.y0.is_cuda and not interpreted():
        raise InputError(f"ensemble='triton' needs y0 on a CUDA device, got {inputs.y0.device}: use ensemble=True.")
    launch(program, inputs, buffers)


def launch(program: Program, inputs: Inputs, buffers: Buffers) -> None:
    """The kernel on tensors wherever they are."""
    y0, batch = inputs.y0, len(inputs.y0)
    settings = torch.tensor([inputs.settings[name] for name in SETTINGS], dtype=torch.float64, device=y0.device)
    tensors: dict[str, Tensor] = {
        "ts": inputs.ts, "settings": settings, "y0": y0, "each": inputs.each, "common": inputs.common,
        "rules": inputs.rules, **buffers.named(),
    }  # fmt: skip
    stride = inputs.ts.shape[-1] if inputs.ts.dim() == 2 else 0
    grid = ((batch + BLOCK - 1) // BLOCK,)
    with on_device_of(y0):
        kernel(source_of(program, _REAL[y0.dtype], source))[grid](
            *(tensors[name] for name in POINTERS), batch, inputs.ts.shape[-1], stride, buffers.event_ts.shape[1],
            BLOCK=BLOCK, num_warps=1,
        )  # fmt: skip
