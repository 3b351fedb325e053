"""Runs a program on the CPU: the library's arguments from tensors."""

from __future__ import annotations

import ctypes
from threading import Thread

import torch
from torch import Tensor

from .build import load
from .cpp import source
from .fragments import Program
from .problem import SETTINGS, Buffers, Inputs
from .sources import source_of

_REAL = {torch.float64: "double", torch.float32: "float"}
_POINTERS = (
    "ts", "settings", "y0", "each", "common", "ys", "last", "zs", "end", "status", "accepted", "rejected", "updates",
    "rules", "event_ts", "event_ys", "event_counts",
)  # fmt: skip
_Settings = ctypes.c_double * len(SETTINGS)


class _Task(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "times", "stride", "threads", "capacity")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    ]


def prepare(program: Program, dtype: torch.dtype) -> ctypes.CDLL:
    """The compiled program, from memory, disk or the compiler."""
    return load(source_of(program, _REAL[dtype], source))


def run(program: Program, inputs: Inputs, buffers: Buffers) -> None:
    """Solve every trajectory of the inputs into the buffers."""
    library = prepare(program, inputs.y0.dtype)
    settings = _Settings(*(inputs.settings[name] for name in SETTINGS))
    pointers: dict[str, Tensor] = {
        "ts": inputs.ts, "y0": inputs.y0, "each": inputs.each, "common": inputs.common, "rules": inputs.rules,
        **buffers.named(),
    }  # fmt: skip
    assert all(x.is_contiguous() for x in pointers.values())
    batch, times = inputs.y0.shape[0], inputs.ts.shape[-1]
    threads = max(1, min(torch.get_num_threads(), batch))
    stride, capacity = times if inputs.ts.dim() == 2 else 0, buffers.event_ts.shape[1]
    addresses = {name: x.data_ptr() for name, x in pointers.items()}
    addresses["settings"] = ctypes.addressof(settings)
    task = _Task(batch, times, stride, threads, capacity, *(addresses[name] for name in _POINTERS))
    queue = ctypes.c_int64(0)
    # ctypes lets go of the interpreter while the library works
    others = [Thread(target=library.solve, args=(ctypes.byref(task), ctypes.byref(queue))) for _ in range(threads - 1)]
    for thread in others:
        thread.start()
    library.solve(ctypes.byref(task), ctypes.byref(queue))
    for thread in others:
        thread.join()
