"""Buffers of a compiled loop allocated once, before it, instead of in every iteration.

Inductor's C++ wrapper runs a while_loop's body as straight code that allocates every buffer, makes a handle for every
input and moves the results into the carried names, in each iteration. A step of a small system takes less time than
that. Here the generated wrapper is rewritten before it is compiled:

- a buffer allocated in the body is allocated before the loop and kept; where it becomes a carried value the two names
  swap their buffers, so that the next iteration writes where this one read;
- handles that only rename a buffer, and views that only shift a pointer, are replaced by what they stand for.

Only lines in exactly the known forms are touched, for the versions of PyTorch whose forms they are; everything else stays
as it was generated. For other versions, and where the forms do not fit together, nothing is rewritten: the same results
later, said once in the log.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import re
from collections.abc import Iterator
from typing import Any

import torch

VERSIONS = ("2.13",)
_log = logging.getLogger(__name__)
_NAME = r"[A-Za-z_]\w*"
_CHECK = r"AOTI_TORCH_ERROR_CODE_CHECK"
_ASSIGN = re.compile(rf"\s*{_CHECK}\(aoti_torch_assign_tensors_out\((.*), &({_NAME})_handle\)\);$")
_EMPTY = re.compile(rf"\s*{_CHECK}\(aoti_torch_empty_strided\((.*), &({_NAME})_handle\)\);$")
_VIEW = re.compile(
    rf"\s*auto ({_NAME}) = wrap_with_raii_handle_if_needed\(reinterpret_tensor_wrapper\(({_NAME}), \d+, \w+, \w+, (.*)\)\);"
)
_SIZES = re.compile(r"\s*(static constexpr|const) int64_t \*?(int_array_\d+)\b.*;$")
_MOVE = re.compile(rf"\s*({_NAME}) = std::move\(({_NAME})\);$")
_ITEM = re.compile(rf"\s*{_CHECK}\(aoti_torch_item_bool\(({_NAME}), &({_NAME})\)\);$")


def hoisted(source: str) -> str:
    """The wrapper with every outermost loop rewritten."""
    lines = source.split("\n")
    result: list[str] = []
    i = 0
    while i < len(lines):
        if lines[i].strip() != "while (1) {":
            result.append(lines[i])
            i += 1
            continue
        indent = lines[i][: len(lines[i]) - len(lines[i].lstrip())]
        end = next(j for j in range(i + 1, len(lines)) if lines[j] == indent + "}")
        result = _rewrite(result, lines[i : end + 1])
        i = end + 1
    return "\n".join(result)


def _rewrite(before: list[str], block: list[str]) -> list[str]:
    """What comes before a loop, and the loop, rewritten."""
    block = _without_renamings(block)
    text = "\n".join(block)
    sizes = [line for line in block if _SIZES.match(line) and not re.search(r"\bu\d+\b", line)]
    fixed = {match[2] for line in sizes if (match := _SIZES.match(line))}
    moved = {match[2]: match[1] for line in block if (match := _MOVE.match(line))}
    kept: set[str] = set()
    for line in block:
        if match := _EMPTY.match(line):
            arrays = re.findall(r"\bint_array_\d+\b", match[1])
            others = len(re.findall(rf"std::move\({match[2]}\)", text)) - (match[2] in moved)
            inside = all(array in fixed or not re.search(rf"int64_t \*?{array}\b", text) for array in arrays)
            if inside and not others and not re.search(r"\bu\d+\b", match[1]):
                kept.add(match[2])
    handed = _handed_over(block)
    swapped = {carried for name, carried in moved.items() if name in kept and not carried.endswith("_cond_result")}
    views = _shifted_pointers(block)
    declared: list[str] = []
    body: list[str] = []
    drop = {f"{name}.reset();" for name in (*kept, *views, *swapped)}
    drop |= {f"AtenTensorHandle {name}_handle;" for name in kept}
    drop |= {f"RAIIAtenTensorHandle {name}({name}_handle);" for name in kept}
    conditions = {carried: name for name, carried in moved.items() if name in kept and carried.endswith("_cond_result")}
    drop |= {f"AtenTensorHandle {name}_handle;" for name in handed}
    drop |= {f"RAIIAtenTensorHandle {name}({name}_handle);" for name in handed}
    drop |= {f"{carried}.reset();" for carried in conditions}
    drop |= {f"bool {carried}_scalar;" for carried in conditions}
    for line in block:
        stripped = line.strip()
        if line in sizes:
            declared.append(line)
        elif (match := _EMPTY.match(line)) and match[2] in kept:
            declared += [
                f"AtenTensorHandle {match[2]}_handle;", stripped, f"RAIIAtenTensorHandle {match[2]}({match[2]}_handle);"
            ]  # fmt: skip
        elif (match := _MOVE.match(line)) and match[2] in kept:
            if match[1] in swapped:
                body.append(f"std::swap({match[1]}, {match[2]});")
        elif (match := _ITEM.match(line)) and match[1] in conditions:
            body.append(f"bool {match[2]} = *static_cast<bool*>({conditions[match[1]]}.data_ptr());")
        elif (match := _ASSIGN.match(line)) and match[2] in handed:
            body.append(f"RAIIAtenTensorHandle {match[2]}(std::move({match[1]}));")
        elif (match := _ASSIGN.match(line)) and match[2] in swapped:
            body.append(_owned(line))
        elif stripped not in drop and not ((match := _VIEW.match(line)) and match[1] in views):
            body.append(_with_pointers(line, views))
    owned = {*swapped, *handed.values()}
    before = [_owned(line) if (match := _ASSIGN.match(line)) and match[2] in owned else line for line in before]
    return [*before, *declared, *body]


def _handed_over(block: list[str]) -> dict[str, str]:
    """Carried values of an inner loop that are those of the outer one, before and after: inner name -> outer name."""
    found = {}
    for i, line in enumerate(block):
        if (match := _ASSIGN.match(line)) and re.fullmatch(_NAME, match[1]):
            outer, inner = match[1], match[2]
            rest = [x.strip() for x in block[i + 1 :] if re.search(rf"\b{outer}\b", x)]
            if rest == [f"{outer}.reset();", f"{outer} = std::move({inner});"]:
                found[inner] = outer
    return found


def _owned(line: str) -> str:
    """A carried value starts as a copy: its buffer will be written to."""
    return line.replace("aoti_torch_assign_tensors_out", "aoti_torch_clone")


def _without_renamings(block: list[str]) -> list[str]:
    """A subgraph's inputs by the names they have outside; those that are views as plain views."""
    text = "\n".join(block)
    for i, line in enumerate(block):
        match = _ASSIGN.match(line)
        if match and match[1].startswith("wrap_with_raii_handle_if_needed(") and f"std::move({match[2]})" not in text:
            name = match[2]
            assert block[i + 1].strip() == f"RAIIAtenTensorHandle {name}({name}_handle);"
            block = [*block[: i - 1], "", f"auto {name} = {match[1]};", "", *block[i + 2 :]]
    names: dict[str, str] = {}
    for line in block:
        match = _ASSIGN.match(line)
        if not match or not re.search(r"_arg\d+_\d+$", match[2]) or not re.fullmatch(_NAME, match[1]):
            continue
        if f"std::move({match[2]})" not in text and not re.search(rf"^\s*{match[2]} = ", text, re.M):
            names[match[2]] = names.get(match[1], match[1])
    gone = {f"{name}.reset();" for name in names} | {f"AtenTensorHandle {name}_handle;" for name in names}
    gone |= {f"RAIIAtenTensorHandle {name}({name}_handle);" for name in names}
    kept = [
        line for line in block
        if line.strip() not in gone and not ((match := _ASSIGN.match(line)) and match[2] in names)
    ]  # fmt: skip
    return [re.sub(rf"\b{_NAME}\b", lambda match: names.get(match[0], match[0]), line) for line in kept]


def _shifted_pointers(block: list[str]) -> dict[str, tuple[str, str]]:
    """Views of which nothing is used but the address: name -> (buffer, offset in elements)."""
    text = "\n".join(block)
    found = {}
    for line in block:
        if match := _VIEW.match(line):
            name = match[1]
            uses = len(re.findall(rf"\b{name}\b", text))
            pointers = len(re.findall(rf"\*\)\({name}\.data_ptr\(\)\)", text))
            if uses == 1 + pointers + len(re.findall(rf"^\s*{name}\.reset\(\);$", text, re.M)):
                found[name] = (match[2], match[3])
    return found


def _with_pointers(line: str, views: dict[str, tuple[str, str]]) -> str:
    def pointer(match: re.Match[str]) -> str:
        if match[2] not in views:
            return match[0]
        buffer, offset = views[match[2]]
        inner = pointer(matched) if (matched := _POINTER.fullmatch(f"{match[1]}({buffer}.data_ptr())")) else ""
        return f"({inner} + ({offset}))"

    return _POINTER.sub(pointer, line)


_POINTER = re.compile(rf"(\((?:const )?\w+\*\))\(({_NAME})\.data_ptr\(\)\)")


@functools.cache
def _left_alone(reason: str) -> None:
    _log.warning("Compiled loops allocate in every iteration, which takes longer: %s.", reason)


@contextlib.contextmanager
def buffers_before_loops() -> Iterator[None]:
    """Programs compiled for the CPU in here have their loops rewritten."""
    if not torch.__version__.startswith(VERSIONS):
        _left_alone(f"the code that torch {torch.__version__} generates is not known")
        yield
        return
    from torch._inductor.codegen import common

    common.init_backend_registration()
    devices = common.device_codegens["cpu"]
    wrapper: Any = devices.cpp_wrapper_codegen

    class LoopWrapper(wrapper):  # type: ignore[misc]
        @staticmethod
        def create(is_subgraph, subgraph_name, parent_wrapper, partition_signatures=None):
            return LoopWrapper()

        def generate(self, is_inference):
            found, kernels = super().generate(is_inference)
            try:
                return dataclasses.replace(found, value=hoisted(found.value)), kernels
            except Exception as error:
                _left_alone(f"the generated code was not understood ({type(error).__name__}: {error})")
                return found, kernels

    devices.cpp_wrapper_codegen = LoopWrapper
    try:
        yield
    finally:
        devices.cpp_wrapper_codegen = wrapper
