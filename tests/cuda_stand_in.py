"""CUDA graphs imitated on the CPU: the operations run while a graph is recorded are noted, and a replay runs them again on
the same tensors and writes into those that they made. As on a GPU nothing else happens at a replay, in Python say, and
what would need the host while recording is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from odenets.solvers.compiled import cuda_graph

HOST = {
    torch.ops.aten.lift_fresh.default, torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default,
}  # fmt: skip


class StandIn:
    """What `torch.cuda.CUDAGraph` does.

    Attributes:
        recorded: graphs made so far; replays: how often any of them was run.
    """

    recorded = 0
    replays = 0

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., Any], Any, Any, list[Any]]] = []
        StandIn.recorded += 1

    def pool(self) -> StandIn:
        return self

    @torch.no_grad()
    def replay(self) -> None:
        StandIn.replays += 1
        for function, args, kwargs, results in self.calls:
            for old, new in zip(results, tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Recording(TorchDispatchMode):
    def __init__(self, graph: StandIn, stream: Any = None, pool: Any = None) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in HOST:
            raise RuntimeError("operation not permitted when stream is capturing")
        result = func(*args, **(kwargs or {}))
        self.graph.calls.append((func, args, kwargs or {}, tree_leaves(result)))
        return result


class Stream:
    cuda_stream = 0

    def wait_stream(self, other: Any) -> None: ...


def install(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    """CUDA graphs on the CPU until the end of the test, none of them recorded before."""
    StandIn.recorded = StandIn.replays = 0
    cuda_graph.clear()
    here = lambda *_: contextlib.nullcontext()  # noqa: E731
    api = SimpleNamespace(
        CUDAGraph=StandIn, graph=Recording, Stream=Stream, current_stream=lambda *_: Stream(), stream=here, device=here
    )
    monkeypatch.setattr(cuda_graph, "cuda", api)
    monkeypatch.setattr(cuda_graph, "DEVICE", "cpu")
    return StandIn
