"""Programs that differentiate the field: written in Python over the captured field, traced into one graph, then compiled.

What the compiler captures by itself is one evaluation of the field (`capture`'s guards watch over it: what it reads is an
input of the program, what it depends on in Python is checked at every call). The loops around it are traced here, below the
compiler's own tracing, where autograd works inside a loop's body: `loop` traces a body with its derivatives first and
makes a `while_loop` of the result.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
import torch._dynamo
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import TracingContext
from torch._higher_order_ops.while_loop import while_loop_op
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, make_fx

from ..field import FlatField
from ..state import StateLayout
from . import capture

Program = Callable[..., Sequence[Tensor]]
_counter = itertools.count()


class TracedField:
    """The captured field f(t, y), to be called while a program is traced, and differentiated by autograd there.

    Args:
        graph: the evaluation as a graph of all the inputs of the program.
        inputs: their number.
        at: the places of t and y among them.
        reads: the places of what the field reads besides.
        values: of those.
        trained: which of `reads` require grad.

    Attributes:
        params: the values that require grad.
    """

    def __init__(
        self, graph: Any, inputs: int, at: tuple[int, int], reads: list[int], values: Sequence[Any], trained: list[int]
    ) -> None:
        self.graph, self.inputs, self.at, self.reads, self.trained = graph, inputs, at, reads, trained
        self.values = list(values)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        everything: list[Any] = [None] * self.inputs
        for place, value in zip(self.reads, self.values):
            everything[place] = value
        everything[self.at[0]], everything[self.at[1]] = t, y
        return self.graph(*everything)  # type: ignore[no-any-return]

    @property
    def params(self) -> list[Tensor]:
        return [self.values[i] for i in self.trained]

    def over(self, values: Sequence[Any]) -> TracedField:
        """The same field reading other values."""
        return TracedField(self.graph, self.inputs, self.at, self.reads, values, self.trained)

    def with_leaves(self) -> TracedField:
        """The same field with its params as leaves of autograd's graph."""
        values = list(self.values)
        for i in self.trained:
            values[i] = values[i].detach().requires_grad_()
        return self.over(values)


def pulled(roots: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of the inputs [*input], zero where a root does not depend on one."""
    pairs = [(root, g) for root, g in zip(roots, cotangents) if root.requires_grad]
    if not pairs:
        return [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad(
        [root for root, _ in pairs], list(inputs), [g for _, g in pairs], allow_unused=True, retain_graph=True
    )
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs)]


def loop(
    field: TracedField,
    cond: Callable[..., Tensor],
    body: Callable[..., Sequence[Tensor]],
    carried: Sequence[Tensor],
    outer: Sequence[Tensor] = (),
    written: Sequence[Tensor] = (),
) -> tuple[Tensor, ...]:
    """`while cond(*carried, *outer): carried = body(field, *carried, *outer, *written)`, inside a program.

    Args:
        cond: -> bool []. It and `body` see no other tensors than their arguments.
        written: tensors that the body writes to in place; nothing else may read them before the loop has ended.
    """
    m = len(carried) + len(outer)
    last = m + len(written)

    def condition(*values: Any) -> Tensor:
        return cond(*values[:m])

    def advance(*values: Any) -> tuple[Tensor, ...]:
        return tuple(x.detach().clone() for x in body(field.over(values[last:]), *values[:last]))

    additional = (*outer, *written, *field.values)
    with disable_proxy_modes_tracing():
        graphs = []
        for function in (condition, advance):
            fresh = [x.clone() for x in (*carried, *outer, *written)]
            graphs.append(_graph(function)(*fresh, *field.values))
    places = ",".join(str(i) for i in range(m, last))
    settings = {"mutated_arg_indices": places} if places else {}
    start = tuple(x.clone() for x in carried)  # results must not share memory with what the loop was given
    return while_loop_op(graphs[0], graphs[1], start, additional, **settings)  # type: ignore[no-any-return,arg-type]


def call(
    build: Program, key: Hashable, flat: FlatField, t: Tensor, y: Tensor, *inputs: Tensor
) -> tuple[Sequence[Tensor], list[Tensor]]:
    """What the program of `key` returns, and the tensors requiring grad that the field read, in the order of the
    `params` that the program saw.

    Args:
        build: (field, t, y, *inputs) -> tensors, traced where there is no program yet.
        t, y: a time and a state as the field gets them; no tensor that the field itself may hold.

    Raises:
        CannotCapture: if the field cannot be captured.
    """
    layout = flat.layout if flat.layout.spec is not None else StateLayout(None, (), (), flat.layout.batch_dims)
    kind = ("traced", key, capture.kind_of(flat.func), layout, y.device.type, t.dim(), y.dim())
    with torch.no_grad():
        return capture.call(  # type: ignore[no-any-return]
            lambda: _evaluation(layout), kind, flat.func, flat.args, t, y, *inputs, backend=_Backend(build)
        )


def reads(flat: FlatField, t: Tensor, y: Tensor) -> list[Tensor]:
    """The tensors requiring grad that the field reads, each once.

    Raises:
        CannotCapture: if the field cannot be captured.
    """
    found = call(_nothing, "reads", flat, t, y.detach())[1]
    return list({id(x): x for x in found}.values())


def _nothing(field: TracedField, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return ()


@torch.compiler.allow_in_graph
def _program(slope: Tensor, *inputs: Tensor) -> Tensor:
    """Stands for the program in the captured graph, with the field's value and the program's inputs as arguments."""
    return slope.clone()


def _evaluation(settings: StateLayout) -> types.FunctionType:
    def evaluate(func: Callable[..., Any], args: tuple[Any, ...], t: Tensor, y: Tensor, *inputs: Tensor) -> Any:
        return _program(FlatField(func, settings, args).evaluate(t, y), t, y, *inputs)

    # a name of its own: sizes seen in one program are no reason to make them variables in another
    name = f"evaluate_{next(_counter)}"
    return types.FunctionType(  # type: ignore[return-value]
        evaluate.__code__.replace(co_name=name), evaluate.__globals__, name, None, evaluate.__closure__
    )


def _graph(function: Callable[..., Any]) -> Callable[..., torch.fx.GraphModule]:
    return make_fx(function, tracing_mode="real", _allow_non_fake_inputs=True)


class _Backend:
    """Makes the program out of the captured evaluation; its value is the pair that `call` returns."""

    def __init__(self, build: Program) -> None:
        self.build = build

    def __call__(self, captured: torch.fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
        placeholders = captured.graph.find_nodes(op="placeholder")
        place = {node: i for i, node in enumerate(placeholders)}
        (stand_in,) = captured.graph.find_nodes(op="call_function", target=_program)
        slope, *own = stand_in.args
        at = [place[node] for node in own]
        graph = torch.fx.Graph()
        copies: dict[Any, Any] = {}
        graph.graph_copy(captured.graph, copies)
        graph.output(copies[slope])
        graph.erase_node(copies[stand_in])
        used = [i for i, node in enumerate(placeholders) if i not in at and copies[node].users]
        trained = [
            k for k, i in enumerate(used) if isinstance(examples[i], Tensor) and examples[i].requires_grad
        ]  # fmt: skip
        evaluation = torch.fx.GraphModule(captured, graph)

        def program(*values: Any) -> tuple[Tensor, ...]:
            field = TracedField(
                evaluation, len(values), (at[0], at[1]), used, [values[i] for i in used], trained
            )  # fmt: skip
            return tuple(self.build(field, *(values[i] for i in at)))

        read = [used[k] for k in trained]
        if self.build is _nothing:
            return lambda *values: (((), [values[i] for i in read]),)
        run = self._compiled(program, examples)
        return lambda *values: ((run(*values), [values[i] for i in read]),)

    def _compiled(self, program: Callable[..., Any], examples: Sequence[Any]) -> Callable[..., Any]:
        context = TracingContext.get()
        mode = context.fake_mode
        assert mode is not None

        def fake(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            symbols = context.tensor_to_context.get(x)
            if symbols is None:
                return mode.from_tensor(x)
            return mode.from_tensor(
                x, static_shapes=False, symbolic_context=symbols, source=symbols.tensor_source  # type: ignore[attr-defined]
            )  # fmt: skip

        inputs = [fake(x) for x in examples]
        versions = [x._version for x in inputs if isinstance(x, Tensor)]
        with mode, enable_python_dispatcher(), torch.no_grad():  # operations on sizes that are variables need it
            graph = _graph(program)(*inputs)
            if versions != [x._version for x in inputs if isinstance(x, Tensor)]:
                raise RuntimeError("it changes a tensor in place, a buffer say")
            _check(graph)
            graph.graph.eliminate_dead_code()
            for node in graph.graph.find_nodes(op="placeholder"):
                node.meta.clear()  # or it would be taken for an exported graph
            graph.recompile()
            return graph if isinstance(capture.BACKEND, str) else capture.BACKEND(graph, examples)  # type: ignore[no-any-return]


def _check(graph: torch.fx.GraphModule) -> None:
    """Raises RuntimeError for a field that would not do the same again."""
    for part in graph.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                raise RuntimeError(f"it draws random numbers ({node.target}), which would be others the second time")
