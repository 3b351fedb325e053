"""A block's step as a compiled program: one for all blocks of a kind, however deep the stack.

What a program costs to compile does not grow with the depth, as it does when a whole stack is unrolled into one.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Sequence
from typing import Any

import torch
import torch._dynamo
import torch._functorch.config
from torch import Tensor

from odenets.blocks import Block
from odenets.solvers.compiled import capture

BACKEND = "inductor"
MODES = (False, "step", "stack")


def check_compile(mode: Any) -> None:
    """Raises ValueError for what `compile=` of a stack does not take."""
    if not (mode is False or mode in MODES[1:]):
        raise ValueError(f"compile= of a stack takes False, 'step' or 'stack', got {mode!r}")


def check_gradient(mode: bool | str, gradient: str) -> None:
    """Raises ValueError where a stack's gradient does not go with its `compile`."""
    if mode == "stack" and gradient != "autograd":
        raise ValueError(f"compile='stack' takes gradient='autograd', got {gradient!r}: use compile='step'")
    if mode == "step" and gradient in ("reversible", "selective"):  # they take the blocks' steps apart
        raise ValueError(f"compile='step' does not take gradient={gradient!r}: use 'checkpoint' or compile=False")


def compiled_step(block: Block, t: Tensor, state: Any, h: Tensor | float, inputs: dict[str, Tensor]) -> Any:
    """block(t, state, h, **inputs), differentiable.

    Raises:
        ValueError: if the block cannot be captured, with the place and the reason.
    """
    kind = tuple(type(module) for module in block.modules())
    return _call(("step", kind), block, t, state, h, inputs)


def compiled_stack(stack: Any, state: Any, context: Any) -> Any:
    """`stack.run(state, context)` as one program. Raises as `compiled_step`."""
    return _call(("stack", len(stack.blocks)), stack, state, context)


def _call(key: Any, module: Any, *given: Any) -> Any:
    missing = capture.why_unavailable(given[0].device.type)
    if missing:
        raise ValueError(f"compile={key[0]!r}: {missing}; use compile=False")
    build = _step if key[0] == "step" else _stack
    try:
        return capture.call(build, key, module, *given, backend=_backend)
    except capture.CannotCapture as error:
        raise ValueError(f"the {key[0]} cannot be compiled. {error}; use compile=False") from error


def walked_again() -> contextlib.AbstractContextManager[Any]:
    """Around a backward pass through compiled steps that keeps its graph: they must not reuse what they have stored."""
    return torch._functorch.config.patch(donated_buffer=False)  # type: ignore[no-any-return]


def _backend(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
    with walked_again():
        return torch._dynamo.lookup_backend(BACKEND)(graph, inputs)  # type: ignore[arg-type]


def _step() -> types.FunctionType:
    def step(block: Block, t: Tensor, state: Any, h: Tensor | float, inputs: dict[str, Tensor]) -> Any:
        return block(t, state, h, **inputs)

    return step  # type: ignore[return-value]


def _stack() -> types.FunctionType:
    def whole(stack: Any, x: Any, context: Any) -> Any:
        return stack.run(x, context)

    return whole  # type: ignore[return-value]
