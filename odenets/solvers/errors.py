"""What can go wrong, as types. Wrong input is a `ValueError`; a solve that failed is a `RuntimeError` with its cause.

Both are `AssertionError`s too, because that is what torchdiffeq raises in these places and what code written for it
catches.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .solution import Solution


class InputError(ValueError, AssertionError):
    """An argument of a solve is wrong; the message says what was expected, what came, and the fix."""


class InputTypeError(InputError, TypeError):
    """An argument of a solve has the wrong type."""


class SolveError(RuntimeError, AssertionError):
    """A solve failed; `solution` holds what had been computed until then (NaN at the times not reached)."""

    def __init__(self, message: str, solution: Solution | None = None) -> None:
        super().__init__(message)
        self.solution = solution


def near_names(name: str, known: Iterable[str]) -> str:
    """What was probably meant, or what there is: the end of a message about an unknown name."""
    near = difflib.get_close_matches(name, list(known), n=2)
    return f"; did you mean {' or '.join(near)}?" if near else f". Must be one of {', '.join(known)}."


class Status(enum.IntEnum):
    """How a solve ended."""

    SUCCESS = 0
    MAX_STEPS = 1
    STEP_TOO_SMALL = 2
    NON_FINITE = 3
    NONLINEAR = 4
    EVENT = 5
    TOO_MANY_EVENTS = 6

    @property
    def successful(self) -> bool:
        """Whether the solve went as it was asked to."""
        return self in (Status.SUCCESS, Status.EVENT)

    @property
    def meaning(self) -> str:
        return {
            Status.SUCCESS: "reached the end",
            Status.MAX_STEPS: "the limit on the number of steps was reached",
            Status.STEP_TOO_SMALL: "the step size fell below what the time's precision can resolve",
            Status.NON_FINITE: "the state or the vector field became NaN or infinite",
            Status.NONLINEAR: "the equations of an implicit step could not be solved",
            Status.EVENT: "ended by a terminal event",
            Status.TOO_MANY_EVENTS: "events accumulate at this time, or one happened more often than its limit",
        }[self]
