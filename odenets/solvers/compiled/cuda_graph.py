"""Functions of tensors recorded as CUDA graphs and replayed: the host launches once what it would launch kernel by kernel.

A graph reads and writes at fixed addresses. Parameters are read where they lie, and another address is another graph;
every other input is copied to a place of the graph's own, and results are copied out of it, gradients too, so that they
may be kept and added to. What a graph has kept for its backward pass is that of the last forward pass alone: a backward
pass that comes too late says so.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, cuda, nn

from ..once import differentiable_once

WARM_UPS = 3  # runs before recording: libraries choose their kernels and allocate workspaces
GRAPHS = 16  # kept at most, least recently used first out; each has memory of its own on the device
DEVICE = "cuda"

Function = Callable[..., Sequence[Tensor]]
_graphs: OrderedDict[Hashable, CudaGraph] = OrderedDict()


def why_unavailable(device: torch.device) -> str:
    """What is missing for CUDA graphs on a device; empty if nothing is."""
    return "" if device.type == DEVICE else f"CUDA graphs need a CUDA device, this is {device.type}"


def replayed(key: Hashable, function: Function, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """`function(*inputs)` by its graph, recorded where there is none yet. Differentiable, once.

    Args:
        key: what the function depends on besides its inputs; kept as long as the graph is.
        inputs: all tensors that it reads, at least one.

    Raises:
        RuntimeError: if it cannot be recorded: it waits for the device, or writes to its inputs.
    """
    differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    kind = inputs[0].device.type
    stream = cuda.current_stream(inputs[0].device).cuda_stream
    cast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    whole = (key, differentiated, stream, cast, *map(_kind, inputs))
    graph = _graphs.get(whole)
    if graph is None:
        graph = _graphs[whole] = CudaGraph(function, inputs, differentiated)
        while len(_graphs) > GRAPHS:
            _graphs.popitem(last=False)
    else:
        _graphs.move_to_end(whole)
    return _Differentiable.apply(graph, *inputs) if differentiated else graph.forward(inputs)[0]  # type: ignore[no-any-return]


def clear() -> None:
    """Forget all graphs."""
    _graphs.clear()


class CudaGraph:
    """`function(*inputs)` as a graph, with one for its gradient if it is to be differentiated.

    Attributes:
        differentiable: of the outputs, which have a gradient.
    """

    def __init__(self, function: Function, inputs: Sequence[Tensor], differentiated: bool) -> None:
        self.lock = threading.Lock()
        self.passes = 0  # forward and backward
        self.own = [i for i, x in enumerate(inputs) if not isinstance(x, nn.Parameter)]
        self.wanted = [i for i, x in enumerate(inputs) if differentiated and x.requires_grad]
        device = inputs[0].device
        with cuda.device(device), torch.inference_mode(False), torch.set_grad_enabled(differentiated), _casts_anew():
            placed = [x.detach().clone() if i in self.own else x.detach() for i, x in enumerate(inputs)]
            for i in self.wanted:
                placed[i].requires_grad_()
            self._record(function, placed)
        self.buffers = [placed[i].detach() for i in self.own]

    def _record(self, function: Function, placed: list[Tensor]) -> None:
        versions = [x._version for x in placed]
        stream = cuda.Stream()
        stream.wait_stream(cuda.current_stream())
        with cuda.stream(stream):
            for _ in range(WARM_UPS):
                outputs = tuple(function(*placed))
                if versions != [x._version for x in placed]:
                    raise RuntimeError("it changes a tensor in place, a buffer say")
                self._gradients_of(outputs, placed, [torch.zeros_like(y) for y in outputs])
        cuda.current_stream().wait_stream(stream)
        self.graph = cuda.CUDAGraph()
        with cuda.graph(self.graph, stream=stream):
            outputs = tuple(function(*placed))
        self.differentiable = [y.requires_grad for y in outputs]
        self.cotangents = [torch.zeros_like(y) for y in outputs] if self.wanted else []
        if self.wanted:  # in the same memory: it is replayed after the other, never beside it
            self.backward_graph = cuda.CUDAGraph()
            with cuda.graph(self.backward_graph, stream=stream, pool=self.graph.pool()):
                self.gradients = self._gradients_of(outputs, placed, self.cotangents)
        self.outputs = tuple(y.detach() for y in outputs)

    def _gradients_of(
        self, outputs: Sequence[Tensor], placed: Sequence[Tensor], cotangents: Sequence[Tensor]
    ) -> tuple[Tensor | None, ...]:
        pairs = [(y, g) for y, g in zip(outputs, cotangents) if y.requires_grad]
        if not pairs:
            return (None,) * len(self.wanted)
        return torch.autograd.grad(
            [y for y, _ in pairs], [placed[i] for i in self.wanted], [g for _, g in pairs], allow_unused=True
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], int]:
        """The outputs, and the number of this pass."""
        with self.lock, torch.no_grad():
            if self.buffers:
                torch._foreach_copy_(self.buffers, [inputs[i] for i in self.own])
            self.graph.replay()
            self.passes += 1
            return tuple(y.clone() for y in self.outputs), self.passes

    def backward(self, number: int, cotangents: Sequence[Tensor]) -> list[Tensor | None]:
        """The gradients of the inputs `wanted`, from those of the outputs of the pass of this number.

        Raises:
            RuntimeError: if it was not the last.
        """
        with self.lock:
            if number != self.passes:
                raise RuntimeError(
                    "a CUDA graph keeps what one backward pass needs: it was run, or gone back through, since the "
                    "forward pass of this one; use compile=False"
                )
            torch._foreach_copy_(self.cotangents, list(cotangents))
            self.backward_graph.replay()
            self.passes += 1
            return [None if g is None else g.clone() for g in self.gradients]


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graph: CudaGraph, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs, ctx.number = graph.forward(inputs)
        ctx.graph = graph
        ctx.mark_non_differentiable(*[y for y, smooth in zip(outputs, graph.differentiable) if not smooth])
        ctx.save_for_backward(*inputs)  # for autograd to notice changes in place
        return outputs

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        found: list[Tensor | None] = [None] * len(ctx.saved_tensors)
        for i, gradient in zip(ctx.graph.wanted, ctx.graph.backward(ctx.number, cotangents)):
            found[i] = gradient
        return None, *found


def _kind(x: Tensor) -> Hashable:
    """What a graph was recorded for."""
    place = x.data_ptr() if isinstance(x, nn.Parameter) else None
    return tuple(x.shape), x.stride(), x.dtype, x.device, x.requires_grad, place


@contextlib.contextmanager
def _casts_anew() -> Iterator[None]:
    """Without autocast's copies of parameters, which live shorter than a graph."""
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(cached)
