"""Compiling a solve: the backend and its options, programs kept for reuse, and what is said where a field cannot be
captured.

A program is compiled for what kind of field it is (a module's class, a function's code) and for settings; the field
itself, its parameters and everything in `Inputs` are its arguments. The compiler guards on what it has read of the
field: another value of a Python attribute compiles anew, another value of a tensor does not.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import re
import shutil
import traceback
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, cast

import torch
import torch._dynamo
from torch import nn
from torch._higher_order_ops.while_loop import while_loop_op
from torch.utils.checkpoint import _StopRecomputationError

from . import cuda_graph
from .hoist import buffers_before_loops

PROGRAMS = 64  # kept at most, least recently used first out
VARIANTS = 16  # shapes, dtypes and kinds of field compiled into one program at most
# buffers of their own for all that a loop computes: they are allocated once, see `hoist`
OPTIONS = {"cpp_wrapper": True, "allow_buffer_reuse": False, "inplace_buffers": False, "size_asserts": False}
_programs: OrderedDict[Hashable, Callable[..., Any]] = OrderedDict()
_refused: set[Hashable] = set()


class CannotCapture(RuntimeError):
    """The field could not be compiled; the message says where and why."""


# whether a compiled loop may write to tensors that it does not carry: PyTorch 2.13 and newer
LOOPS_WRITE = "mutated_arg_indices" in inspect.signature(type(while_loop_op).__call__).parameters


@functools.cache
def why_unavailable(device: str) -> str:
    """What is missing for compiled solves on a device type; empty if nothing is."""
    if device == "cpu":
        from torch._inductor import config

        compilers = config.cpp.cxx if isinstance(config.cpp.cxx, (tuple, list)) else (config.cpp.cxx,)
        if not any(name and shutil.which(name) for name in compilers):
            return "compiled solves on the CPU need a C++ compiler: install g++ or clang, or name one in CXX"
    return ""


def why_no_loops(device: str) -> str:
    """What keeps a compiled program on a device type from looping by itself; empty if nothing does."""
    if device != "cpu":
        return f"on {device}"
    return "" if LOOPS_WRITE else f"before torch 2.13 (this is {torch.__version__})"


def kind_of(field: Any) -> Hashable:
    """What fields that may share a program have in common. Keeps none of them alive."""
    if isinstance(field, functools.partial):
        return ("partial", kind_of(field.func))
    if isinstance(field, types.MethodType):
        return ("method", kind_of(field.__self__), field.__func__.__code__)
    if isinstance(field, types.FunctionType):
        return field.__code__
    return cast(Hashable, type(field))


def call(
    build: Callable[[], types.FunctionType],
    key: Hashable,
    field: Any,
    *inputs: Any,
    loops: bool = True,
    backend: Callable[..., Any] | None = None,
) -> Any:
    """Run the program of `key`, compiled from `build()` where there is none yet; `loops` says whether it has any, and
    `backend` what compiles it if not Inductor.

    Raises:
        CannotCapture: if the field cannot be captured.
    """
    program = _programs.get(key)
    if program is None:
        inductor = BACKEND if loops or BACKEND is not _inductor else _inductor_straight
        program = _programs[key] = _compiled(build(), backend or inductor)
        while len(_programs) > PROGRAMS:
            _programs.popitem(last=False)
    else:
        _programs.move_to_end(key)
    try:
        return program(field, *inputs)
    except torch._dynamo.exc.FailOnRecompileLimitHit:
        del _programs[key]  # begin anew rather than keep ever more variants
        return call(build, key, field, *inputs, loops=loops, backend=backend)
    except _StopRecomputationError:  # how checkpointing ends a recomputation
        raise
    except Exception:
        # a number that the field reads, once changed, is taken for a variable, which loops do not accept: compile it in
        try:
            constant: dict[str, Any] = {"automatic_dynamic_shapes": False} if backend else {}
            with torch._dynamo.config.patch(specialize_float=True, specialize_int=True, **constant):
                return program(field, *inputs)
        except Exception as error:  # a mistake of the user's own shows in the eager solve
            raise CannotCapture(explanation(error, field)) from error


def clear() -> None:
    """Forget all programs."""
    cuda_graph.clear()
    _programs.clear()
    _refused.clear()


def warn_once(key: Hashable, message: str) -> None:
    """Say once that fields of this kind are solved eagerly."""
    if key not in _refused:
        refuse(key)
        warnings.warn(message, UserWarning, stacklevel=4)


def refuse(key: Hashable) -> None:
    """Note that such a solve cannot be captured."""
    _refused.add(key)


def refused(key: Hashable) -> bool:
    """Whether such a solve could not be captured before."""
    return key in _refused


def _compiled(function: types.FunctionType, backend: Any) -> Callable[..., Any]:
    # the compiler keeps what it made by code object: one of its own keeps programs apart, and lets go of them together
    apart = types.FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, None, function.__closure__
    )
    return with_variants(
        apart, VARIANTS, fullgraph=True, backend=backend, options={"guard_filter_fn": _about_the_users}
    )


def with_variants(function: Callable[..., Any], limit: int, **settings: Any) -> Callable[..., Any]:
    """torch.compile(function, **settings) with so many variants at most."""
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        settings["recompile_limit"] = limit
        return torch.compile(function, **settings)  # type: ignore[call-overload,no-any-return]
    program = torch.compile(function, **settings)  # type: ignore[call-overload]

    @functools.wraps(function)
    def limited(*given: Any) -> Any:  # before PyTorch 2.13 the limit is one for all
        with torch._dynamo.config.patch(recompile_limit=limit):
            return program(*given)

    return limited


def _inductor(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
    from torch._inductor.compile_fx import compile_fx

    with buffers_before_loops(), _without_fallback_warnings():
        return compile_fx(graph, inputs, config_patches=OPTIONS | _passes(), decompositions=_decompositions())


def _passes() -> dict[str, Any]:
    from torch._inductor import config

    from .sums import SumsApart

    users = config.post_grad_custom_post_pass
    return {} if users is not None else {"post_grad_custom_post_pass": SumsApart()}


@contextlib.contextmanager
def _without_fallback_warnings() -> Iterator[None]:
    """Inductor warns of every call of LAPACK that it makes in a roundabout way: that is meant."""
    logger = logging.getLogger("torch._inductor.ir")
    known = lambda record: "missing a c-shim" not in record.getMessage()  # noqa: E731
    logger.addFilter(known)
    try:
        yield
    finally:
        logger.removeFilter(known)


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Inductor's, and copies of views, which indexing becomes inside a loop, as copies of views: it knows no other form."""
    from torch._inductor.decomposition import select_decomp_table

    aten = torch.ops.aten
    return {
        **select_decomp_table(),
        aten.select_copy.int: lambda x, dim, index: aten.select.int(x, dim, index).clone(),
        aten.detach_copy.default: lambda x: x.clone(),
    }


def _inductor_straight(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
    from torch._inductor.compile_fx import compile_fx

    # on a GPU the wrapper in C++ would need a compiler and CUDA's headers
    on_cpu = all(x.device.type == "cpu" for x in inputs if isinstance(x, torch.Tensor))
    return compile_fx(graph, inputs, config_patches={"cpp_wrapper": on_cpu, **_passes()})


BACKEND: Any = _inductor


def _about_the_users(guards: Sequence[Any]) -> list[bool]:
    """Guards on the field and the inputs; the solver's own code and settings do not change."""
    ours = ("G['__import_odenets_dot_solvers", "L['settings']")
    return [not guard.name.startswith(ours) for guard in guards]


def explanation(error: BaseException, field: Any) -> str:
    """One line: where in the field's own code capture stopped, and why."""
    text = str(getattr(error, "inner_exception", error)).strip()
    reason = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    if "data-dependent" in text or ".item()" in text or "Tensor.item" in text:
        reason = "what is computed depends on a tensor's value (.item(), if, while); torch.where does not"
    return f"{_place(error, field)}: {reason}"


def _place(error: BaseException, field: Any) -> str:
    """file:line of the innermost frame that is the user's."""
    frames = [
        (frame.filename, frame.lineno)
        for frame in getattr(error, "real_stack", None) or []
        if _is_users(frame.filename)
    ]
    frames += [
        (match[1], int(match[2]))
        for match in re.finditer(r'File "([^"]+)", line (\d+)', str(error))
        if _is_users(match[1])
    ] * (not frames)
    if not frames:
        frames = [
            (frame.filename, frame.lineno or 0)
            for frame in traceback.extract_tb(error.__traceback__)
            if _is_users(frame.filename) and not frame.filename.startswith("<")
        ][-1:]
    if frames:
        name, line = frames[-1]
        return f"{name}:{line}"
    return _definition(field)


def _is_users(filename: str) -> bool:
    return "/torch/" not in filename and "/odenets/solvers/" not in filename and not filename.startswith("<")


def _definition(field: Any) -> str:
    try:
        function = field.forward if isinstance(field, nn.Module) else field
        return f"{inspect.getsourcefile(function)}:{inspect.getsourcelines(function)[1]}"
    except TypeError:
        return repr(field)
