"""A program's source, written once for every program of the same key."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import InputError
from .fragments import Program

MOST_OPERATIONS = 20_000  # of a step: about half a minute of compiling
MOST_KEPT = 128
_sources: dict[tuple[str, str, str], str] = {}


def source_of(program: Program, real: str, write: Callable[[Program, str], str]) -> str:
    """What `write` makes of the program and the states' type. Raises InputError for a program that is too long."""
    key = (write.__module__, real, program.key)
    if key not in _sources:
        count = program.operations
        if count > MOST_OPERATIONS:
            raise InputError(
                f"ensemble=True writes a step out, and this one takes {count} operations on scalars, more than "
                f"{MOST_OPERATIONS}: use per_sample=True."
            )
        if len(_sources) >= MOST_KEPT:
            _sources.pop(next(iter(_sources)))
        _sources[key] = write(program, real)
    return _sources[key]
