"""From a vector field in PyTorch to scalar expressions for one trajectory.

The field is captured once by `make_fx` and its graph is run on arrays of scalars. Two ways of writing it are understood:
for a batch (y [batch, *state], t [batch]) or for one trajectory (y [*state], t []). For a batch, two or three
trajectories with scalars of their own are traced: each must depend on its own alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from ..errors import InputError
from .aten import OPERATIONS, mapped, real
from .scalars import Scalar, key_of, lane, ordered, shared, substitute

MOST_OPERATIONS = 20_000
_INSTEAD = "use per_sample=True, which takes any field"


class Untraceable(Exception):
    """Why a field did not become scalars; `final` where another way of reading it must not be tried."""

    def __init__(self, reason: str, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


@dataclass
class Sources:
    """Where the numbers of a traced field come from besides t and y.

    Attributes:
        each: tensors [batch, ...] with a value for every trajectory; element i of their concatenation is lane "p{i}".
        common: tensors shared by all; element i of their concatenation is shared "s{i}".
    """

    each: list[Tensor]
    common: list[Tensor]


@dataclass
class ScalarFunction:
    """A function of t (lane "t"), the state (lanes "y0", "y1", ...) and parameters, as scalar expressions."""

    outputs: list[Scalar]

    def __call__(self, t: Scalar, y: Sequence[Scalar]) -> list[Scalar]:
        return substitute(self.outputs, {"t": t, **{f"y{i}": x for i, x in enumerate(y)}})

    @property
    def key(self) -> str:
        return key_of(self.outputs)


@dataclass
class Traced:
    """A field and events as scalar functions of one trajectory.

    Attributes:
        size: numbers in one trajectory's state.
        batched: whether the field is written for a batch.
    """

    field: ScalarFunction
    events: list[ScalarFunction]
    sources: Sources
    size: int
    batched: bool


def trace(
    field: Callable[..., Any],
    events: Sequence[Callable[..., Any]],
    y0: Tensor,
    t0: Tensor,
    args: tuple[Any, ...],
    batched: bool | None = None,
) -> Traced:
    """The field and the events' functions as scalars.

    Args:
        field: f(t, y, *args) on states like y0 [batch, *state], or on one of them.
        events: g(t, y, *args) likewise, one number per trajectory.
        y0, t0: the start [batch, *state] and [batch].
        args: trees of tensors and anything else; a tensor whose first dimension is the batch has one entry per
            trajectory, unless only shared tensors agree with the field.
        batched: how the field is written; None to find out. One written for a single trajectory shares all of `args`.

    Raises:
        InputError: for a field that cannot be written as scalars, with the operation that prevents it.
    """
    reasons: list[str] = []
    for for_batch in (True, False) if batched is None else (batched,):
        for own in (True, False) if batched is not False else (False,):
            if not own and batched is not False and not _own_args(args, len(y0)):
                continue
            try:
                traced = _traced(field, events, y0, args, for_batch, own)
                if (not for_batch and batched is None) or _agrees(traced, field, y0, t0, args):
                    return traced
                reasons.append("its value for a batch is not what it is for each trajectory alone")
            except Untraceable as error:
                reasons.append(str(error))
                if error.final:
                    break
        else:
            continue
        break
    raise InputError(f"ensemble=True cannot compile the field: {reasons[0]}; {_INSTEAD}.")


def _own_args(args: tuple[Any, ...], batch: int) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(args) if isinstance(x, Tensor) and x.dim() and len(x) == batch]


def _traced(
    field: Callable[..., Any],
    events: Sequence[Callable[..., Any]],
    y0: Tensor,
    args: tuple[Any, ...],
    batched: bool,
    own: bool,
) -> Traced:
    batch, state = len(y0), y0.shape[1:]
    rows = 3 if len(state) and state[0] == 2 else 2
    leaves, spec = pytree.tree_flatten(args)
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    each = [x for x in tensors if own and x.dim() and len(x) == batch]
    sources = Sources(each, [x for x in tensors if not any(x is e for e in each)])
    lead = (rows,) if batched else ()
    example = {id(x): torch.ones(lead + x.shape[1:], dtype=x.dtype, device=x.device) for x in each}

    def call(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(t: Tensor, y: Tensor, *given: Tensor) -> Any:
            values = iter(given)
            return function(
                t, y, *pytree.tree_unflatten([next(values) if isinstance(x, Tensor) else x for x in leaves], spec)
            )

        return run

    inputs = [
        torch.ones(lead, dtype=y0.dtype, device=y0.device),
        torch.ones((*lead, *state), dtype=y0.dtype, device=y0.device),
        *(example.get(id(x), x.detach()) for x in tensors),
    ]
    size = state.numel()
    count = rows if batched else 1
    shape = {id(x): x.shape[1:].numel() for x in each}
    functions = []
    for which, function in enumerate((field, *events)):
        wanted = (*lead, *state) if which == 0 else lead
        scalars = [
            _symbols(["t"], (), lead, count),
            _symbols([f"y{i}" for i in range(size)], state, lead, count),
        ]
        offset = 0
        for x in tensors:
            if id(x) in example:
                names = [f"p{offset + i}" for i in range(shape[id(x)])]
                scalars.append(_symbols(names, x.shape[1:], lead, count))
                offset += len(names)
            else:
                scalars.append(_shared(x, sources.common))
        outputs = _run(_captured(call(function), inputs), scalars, sources.common)
        functions.append(ScalarFunction(_one_trajectory(outputs, wanted, count, which)))
    return Traced(functions[0], functions[1:], sources, size, batched)


def _symbols(names: list[str], shape: Sequence[int], lead: tuple[int, ...], count: int) -> np.ndarray:
    """Lanes for `count` trajectories; those of the first have the plain names, the others' carry their number."""
    out = np.empty((count, len(names)), dtype=object)
    for row, i in np.ndindex(out.shape):
        out[row, i] = lane(names[i] if row == 0 else f"{names[i]}@{row}")
    return out.reshape((*lead, *shape))


def _shared(x: Tensor, common: list[Tensor]) -> np.ndarray:
    """Scalars for a shared tensor; one of whole numbers or truth values is taken as it is."""
    if not x.is_floating_point():
        if x.is_complex():
            raise Untraceable(f"it has a complex tensor {tuple(x.shape)}")
        return x.detach().cpu().numpy()
    if not any(x is known for known in common):
        common.append(x)
    start = sum(known.numel() for known in common[: next(i for i, known in enumerate(common) if known is x)])
    out = np.empty(x.numel(), dtype=object)
    for i in range(x.numel()):
        out[i] = shared(f"s{start + i}")
    return out.reshape(tuple(x.shape))


def _captured(function: Callable[..., Any], inputs: list[Tensor]) -> GraphModule:
    try:
        with torch.no_grad():
            return make_fx(function)(*inputs)
    except Exception as error:
        lines = str(error).strip().splitlines()
        text = lines[0] if lines else type(error).__name__
        if "_local_scalar_dense" in text or "data-dependent" in text:
            text = "it looks at values (if, .item(), float()), which are not known when it is compiled: use torch.where"
        raise Untraceable(text) from error


def _run(graph: GraphModule, inputs: list[np.ndarray], common: list[Tensor]) -> np.ndarray:
    values: dict[Any, Any] = {}
    given = iter(inputs)
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(given)
        elif node.op == "get_attr":
            values[node] = _shared(getattr(graph, node.target), common)
        elif node.op == "output":
            found = values.get(node.args[0])
            if not isinstance(found, np.ndarray):
                raise Untraceable(f"it returns {type(node.args[0]).__name__}, not a tensor like the state")
            return mapped(real, found)
        else:
            values[node] = _operation(node, values)
    raise AssertionError("a graph ends with its output")


def _operation(node: Any, values: dict[Any, Any]) -> Any:
    args = torch.fx.map_arg(node.args, values.__getitem__)
    kwargs = torch.fx.map_arg(node.kwargs, values.__getitem__)
    if getattr(node.target, "__name__", "") == "getitem":
        return args[0][args[1]]
    name = node.target._schema.name.split("::")[-1]
    in_place = name.endswith("_") and name not in OPERATIONS and name[:-1] in OPERATIONS
    operation = OPERATIONS.get(name[:-1] if in_place else name)
    if operation is None and not node.all_input_nodes and torch.Tag.nondeterministic_seeded not in node.target.tags:
        return node.target(*args, **kwargs).cpu().numpy()  # eye, arange, ...: the same numbers every time
    if operation is None:
        raise Untraceable(f"the operation {node.target} has no scalar form")
    try:
        result = operation(*args, **kwargs)
    except (NotImplementedError, TypeError, AssertionError, IndexError) as error:
        raise Untraceable(f"the operation {node.target} has no scalar form for these arguments ({error})") from error
    if in_place:
        args[0][...] = result
        return args[0]
    return result


def _one_trajectory(outputs: np.ndarray, wanted: tuple[int, ...], count: int, which: int) -> list[Scalar]:
    """The first trajectory's outputs, after a look at whether the others are computed likewise and apart."""
    what = "the field" if which == 0 else f"event {which - 1}"
    exact = outputs.shape == tuple(wanted)
    if outputs.shape != tuple(wanted):
        if which == 0 and np.ndim(outputs) <= len(wanted):
            try:
                outputs = np.broadcast_to(outputs, wanted)
            except ValueError:
                raise Untraceable(f"{what} returns shape {outputs.shape} for {tuple(wanted)}") from None
        elif which and outputs.size == count:
            outputs = outputs.reshape(wanted)
        else:
            raise Untraceable(f"{what} returns shape {outputs.shape} for {tuple(wanted)}")
    rows = outputs.reshape(count, -1)
    first = list(rows[0])
    operations = ordered(first)
    if len(operations) > MOST_OPERATIONS:
        raise Untraceable(f"{what} takes {len(operations)} operations on scalars, more than {MOST_OPERATIONS}")
    for row in range(count):
        lanes = {str(x.value) for x in ordered(list(rows[row])) if x.op == "lane"}
        own = {name for name in lanes if (name.split("@")[1:] or ["0"]) == [str(row)]}
        if lanes != own:
            raise Untraceable(f"{what} mixes the trajectories of the batch (reduce over dim=-1 only)", final=exact)
        if row:
            renamed = {name: lane(name.split("@")[0]) for name in own}
            if key_of(substitute(list(rows[row]), renamed)) != key_of(first):
                raise Untraceable(f"{what} treats the trajectories of the batch differently")
    return first


def _agrees(traced: Traced, field: Callable[..., Any], y0: Tensor, t0: Tensor, args: tuple[Any, ...]) -> bool:
    """Whether the scalars give the field's value at the start of the whole batch, or of its only trajectory."""
    if not len(y0):
        return True
    t, y = (t0, y0) if traced.batched else (t0[0], y0[0])
    with torch.no_grad():
        try:
            value = field(t.to(y0.dtype), y, *args).expand_as(y).reshape(len(y0), -1)
        except (RuntimeError, ValueError, TypeError, IndexError):
            return False
        mine = torch.stack(evaluate(traced, t0.to(y0.dtype), y0.reshape(len(y0), -1)), 1)
    scale = value.abs().nan_to_num(posinf=0.0).amax() if value.numel() else value.new_ones(())
    return torch.allclose(mine, value.to(mine.dtype), rtol=1e-3, atol=float(1e-4 * scale) + 1e-30, equal_nan=True)


def evaluate(traced: Traced, t: Tensor, y: Tensor) -> list[Tensor]:
    """The traced field in PyTorch, t [batch], y [batch, size] -> size tensors [batch]: a check of the trace."""
    each = (
        torch.cat([x.detach().reshape(len(y), -1).to(y) for x in traced.sources.each], 1) if traced.sources.each else y
    )
    common = torch.cat([x.detach().reshape(-1).to(y) for x in traced.sources.common]) if traced.sources.common else y
    values: dict[int, Tensor] = {}
    for x in ordered(traced.field.outputs):
        inner = [values[id(arg)] for arg in x.args]
        if x.op == "lane":
            name = str(x.value)
            values[id(x)] = t if name == "t" else (y if name[0] == "y" else each)[:, int(name[1:])]
        elif x.op == "shared":
            values[id(x)] = common[int(str(x.value)[1:])]
        elif x.op == "const":
            values[id(x)] = torch.tensor(x.value, dtype=torch.bool if x.kind == "bool" else y.dtype, device=y.device)
        else:
            values[id(x)] = _TORCH[x.op](*inner)
    return [values[id(x)].expand(len(y)) for x in traced.field.outputs]


_TORCH: dict[str, Callable[..., Tensor]] = {
    "and": torch.logical_and, "or": torch.logical_or, "not": torch.logical_not, "max": torch.maximum,
    "min": torch.minimum, "where": torch.where, "cast": lambda x: x,
    **{name: getattr(torch, name) for name in (
        "neg", "abs", "sqrt", "exp", "log", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "expm1",
        "log1p", "erf", "floor", "ceil", "add", "sub", "mul", "div", "pow", "atan2", "lt", "le", "gt", "ge", "eq", "ne")},
}  # fmt: skip
