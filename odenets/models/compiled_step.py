"""A block's step as a compiled program: one for all blocks of a kind, however deep the stack.

What a program costs to compile does not grow with the depth, as it does when a whole stack is unrolled into one. As a CUDA
graph the whole stack is recorded, forward and backward, as it is.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch._dynamo
import torch._functorch.config
from torch import Tensor

from odenets.blocks import Block
from odenets.solvers.compiled import capture, cuda_graph

BACKEND = "inductor"
MODES = (False, "step", "stack", "cuda_graph")


def check_compile(mode: Any) -> None:
    """Raises ValueError for what `compile=` of a stack does not take."""
    if not (mode is False or mode in MODES[1:]):
        raise ValueError(f"compile= of a stack takes False, 'step', 'stack' or 'cuda_graph', got {mode!r}")


def check_gradient(mode: bool | str, gradient: str) -> None:
    """Raises ValueError where a stack's gradient does not go with its `compile`."""
    if mode in ("stack", "cuda_graph") and gradient != "autograd":
        raise ValueError(f"compile={mode!r} takes gradient='autograd', got {gradient!r}: use compile='step'")
    if mode == "step" and gradient in ("reversible", "selective"):  # they take the blocks' steps apart
        raise ValueError(f"compile='step' does not take gradient={gradient!r}: use 'checkpoint' or compile=False")


def compiled_step(block: Block, t: Tensor, state: Any, h: Tensor | float, inputs: dict[str, Tensor]) -> Any:
    """block(t, state, h, **inputs), differentiable.

    Raises:
        ValueError: if the block cannot be captured, with the place and the reason.
    """
    kind = tuple(type(module) for module in block.modules())
    return _call(("step", kind), block, t, state, h, inputs)


def compiled_stack(stack: Any, state: Any, context: Any, mode: str = "stack") -> Any:
    """`stack.run(state, context)` as one program, or as a CUDA graph. Raises as `compiled_step`."""
    return _call((mode, len(stack.blocks)), stack, state, context)


def _call(key: Any, module: Any, *given: Any) -> Any:
    mode, device = key[0], given[0].device
    missing = capture.why_unavailable(device.type)
    if mode == "cuda_graph":
        missing = missing or cuda_graph.why_unavailable(device)
    if missing:
        raise ValueError(f"compile={mode!r}: {missing}; use compile=False")
    build = _step if mode == "step" else _stack
    try:
        if mode == "cuda_graph":  # a number that varies would be read back from a tensor
            with torch._dynamo.config.patch(specialize_float=True):
                return capture.call(build, key, module, *given, backend=_graphed)
        return capture.call(build, key, module, *given, backend=_backend)
    except capture.CannotCapture as error:
        what = "step" if mode == "step" else "stack"
        raise ValueError(f"the {what} cannot be compiled. {error}; use compile=False") from error


def walked_again() -> contextlib.AbstractContextManager[Any]:
    """Around a backward pass through compiled steps that keeps its graph: they must not reuse what they have stored."""
    return torch._functorch.config.patch(donated_buffer=False)  # type: ignore[no-any-return]


def _backend(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
    with walked_again():
        return torch._dynamo.lookup_backend(BACKEND)(graph, inputs)  # type: ignore[arg-type]


def _graphed(graph: torch.fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
    """Captured, but not compiled: the operations as they are, recorded by size."""

    def run(*given: Any) -> Any:
        tensors = [x for x in given if isinstance(x, Tensor)]
        sizes = tuple(None if isinstance(x, Tensor) else x for x in given)

        def whole(*inputs: Tensor) -> Any:
            ahead = iter(inputs)
            return graph(*(next(ahead) if size is None else size for size in sizes))

        return cuda_graph.replayed((graph, sizes), whole, tensors)

    return run


def _step() -> types.FunctionType:
    def step(block: Block, t: Tensor, state: Any, h: Tensor | float, inputs: dict[str, Tensor]) -> Any:
        return block(t, state, h, **inputs)

    return step  # type: ignore[return-value]


def _stack() -> types.FunctionType:
    def whole(stack: Any, x: Any, context: Any) -> Any:
        return stack.run(x, context)

    return whole  # type: ignore[return-value]
