"""The two errors a person meets at the command line; everything else is a bug and keeps its traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Bad input, found before any work: one line that says what was expected, what came, and the fix. Exit code 2."""


class TrainingStopped(RuntimeError):
    """Training could not go on (a loss or gradient that is not finite): one line with the cause. Exit code 1."""


class Interrupted(RuntimeError):
    """The person (or the scheduler) asked to stop; the state is saved. Exit code 130."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """`did you mean 'digits'?` where there is a near match, else the list of what is valid."""
    options = sorted(str(option) for option in options)
    near = get_close_matches(str(word), options, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"valid: {', '.join(options)}" if options else "there are no options"


def one_line(error: BaseException) -> str:
    """The message of any exception without line breaks; its type's name where there is no message."""
    return " ".join(str(error).split()) or type(error).__name__
