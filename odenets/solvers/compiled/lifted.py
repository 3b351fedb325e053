"""A vector field with all that it reads as inputs: captured once, looked up at every call.

The compiler's front end captures the field as a graph of t, y and the tensors that it refers to, and checks at each call
whether the graph still holds; the graph itself is not compiled here. So a solve whose program needs the field only once,
to write its own code, gets the tensors' present values at every call without capturing the field again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..field import FlatField
from ..state import StateLayout
from . import capture


class CapturedField:
    """The field as a function of t, y and tensors, written for a batch whose size is no part of it where that is known.

    Attributes:
        counts: whether the graph also has numbers that the field changes, say a counter of its calls.
        memory: of whoever uses it, for as long as the graph holds.
    """

    def __init__(self, graph: torch.fx.GraphModule, batched: bool) -> None:
        self.graph = graph
        self.memory: dict[Any, Any] = {}
        placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
        outputs = next(node for node in graph.graph.nodes if node.op == "output").args[0]
        value, t, y = outputs[:3]
        self.counts = len(outputs) > 3
        used = _ancestors(value)
        self.t, self.y = placeholders.index(t.args[0]), placeholders.index(y.args[0])
        batch = _hint(placeholders[self.y].meta["example_value"].shape[0]) if batched else None
        self.sizes: list[int] = []
        self.tensors: list[int] = []
        for i, node in enumerate(placeholders):
            value = node.meta["example_value"]
            numbers = value.shape if isinstance(value, Tensor) else (value,)
            varying = [_hint(x) for x in numbers if isinstance(x, torch.SymInt | torch.SymFloat)]
            as_number = any(user.target == "item" for user in node.users)
            if node in used and (as_number or any(x != batch for x in varying)):
                raise NotImplementedError(f"the graph takes {value} as a variable")  # captured anew, as a constant
            kept = self.tensors if isinstance(value, Tensor) else self.sizes
            kept += [i] * (i not in (self.t, self.y))

    def __call__(self, t: Tensor, y: Tensor, *tensors: Tensor) -> Tensor:
        given: list[Any] = [None] * (len(self.tensors) + len(self.sizes) + 2)
        given[self.t], given[self.y] = t, y
        for i, x in zip(self.tensors, tensors):
            given[i] = x
        for i in self.sizes:  # the batch; others are not used
            given[i] = len(y) if y.dim() else 1
        return self.graph(*given)[0]  # type: ignore[no-any-return]


def _ancestors(node: torch.fx.Node) -> set[torch.fx.Node]:
    """What a node is computed from."""
    found, ahead = {node}, [node]
    while ahead:
        new = [x for x in ahead.pop().all_input_nodes if x not in found]
        found.update(new)
        ahead += new
    return found


def _hint(size: Any) -> Any:
    """The value that a size had when the graph was captured."""
    return size.node.hint if isinstance(size, torch.SymInt | torch.SymFloat) else size


_found = threading.local()
# whole numbers are variables, so that a field that counts its calls is not captured at each of them; others are not
_patch = torch._dynamo.config._make_closure_patcher(  # as `patch`, at a third of its time
    allow_unspec_int_on_nn_module=True, specialize_float=True
)


def lifted(
    func: Callable[..., Any], args: tuple[Any, ...], layout: StateLayout, t: Tensor, y: Tensor
) -> tuple[CapturedField, list[Tensor]]:
    """The field func(t, y, *args) on flat states, and the tensors that it reads besides t and y.

    Raises:
        CannotCapture: if the field cannot be captured.
    """
    if layout.batch_dims:
        for x in (t, y, *pytree.tree_leaves(args)):
            if isinstance(x, Tensor) and x.dim() and len(x) == len(y):
                torch._dynamo.maybe_mark_dynamic(x, 0)
    if layout.spec is None:
        layout = StateLayout(None, (), (), layout.batch_dims)
    key = ("lifted", capture.kind_of(func), layout, y.dim())
    change_back = _patch()
    try:
        with torch.no_grad():
            capture.call(lambda: _program(layout), key, func, args, t, y, backend=_backend(layout.batch_dims > 0))
    finally:
        change_back()
    found: tuple[CapturedField, list[Tensor]] = _found.value
    del _found.value
    return found


def _program(layout: StateLayout) -> Any:
    def evaluate(func: Callable[..., Any], args: tuple[Any, ...], t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        # t and y are inputs of the graph also where the field does not look at them
        return FlatField(func, layout, args).evaluate(t, y).clone(), t.clone(), y.clone()

    return evaluate


def _backend(batched: bool) -> Callable[..., Any]:
    def compile(graph: torch.fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
        captured = CapturedField(graph, batched)

        def look_up(*inputs: Any) -> tuple[Tensor, ...]:
            t, y = inputs[captured.t], inputs[captured.y]
            _found.value = captured, [inputs[i] for i in captured.tensors]
            return graph(*inputs) if captured.counts else (y, t, y)  # type: ignore[no-any-return]

        return look_up

    return compile
