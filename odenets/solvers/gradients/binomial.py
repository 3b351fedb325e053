"""Where to put c checkpoints over N steps, so that running backwards through them repeats as few steps as possible.

Griewank and Walther, "Algorithm 799: revolve" (ACM TOMS 26, 2000): with beta(c, r) = C(c + r, c) and r the least number
with N <= beta(c, r), reversing N steps takes at least

    t(N, c) = r N - beta(c + 1, r - 1)

steps besides the N that are differentiated, none of them more than r times. `split` is a first checkpoint that attains
it. Where N is not known beforehand, `Online` places them while the steps go by.
"""

from __future__ import annotations

from math import comb, inf


def repetitions(n: int, slots: int) -> int:
    """r: how often the most often repeated of n steps is run, least possible with that many checkpoints."""
    r = 0
    while comb(slots + r, slots) < n:
        r += 1
    return r


def fewest_advances(n: int, slots: int) -> int:
    """t(n, c): steps run without being differentiated to reverse n steps, the first sweep included."""
    r = repetitions(n, slots)
    return r * n - comb(slots + r, r - 1) if r else 0


def split(n: int, slots: int) -> int:
    """How many of n > 1 steps to advance before the next checkpoint, with slots > 1 of which one holds the start."""
    r = repetitions(n, slots)
    before = comb(slots + r - 2, slots) if r > 1 else 0
    return max(before, n - comb(slots + r - 1, slots - 1), 1)


def placed(n: int, slots: int) -> list[int]:
    """The checkpoints of the first sweep over n steps, 0 among them."""
    places = [0]
    while n - places[-1] > 1 and len(places) < slots:
        places.append(places[-1] + split(n - places[-1], slots - len(places) + 1))
    return places


class Online:
    """Checkpoints for an unknown number of steps: Wang, Moin, Iaccarino, "Minimal repetition dynamic checkpointing
    algorithm for unsteady adjoint calculation" (SIAM J. Sci. Comput. 31, 2009), algorithm 1.

    A checkpoint has a level; one with a later checkpoint of a higher level may go. Where none may, the last one moves
    on to the present step and rises by a level. No step is repeated more often than with the best placement for the
    number of steps that it turns out to be.
    """

    def __init__(self) -> None:
        self.levels: dict[int, float] = {}  # position -> level, ascending positions

    def place(self, n: int, slots: int) -> int | None:
        """Put a checkpoint at step n (called for n = 0, 1, 2, ...); the position that gives way to it, if one does."""
        if len(self.levels) < slots:
            self.levels[n] = 0 if self.levels else inf
            return None
        highest = -1.0
        for position, level in reversed(self.levels.items()):
            if level < highest:
                del self.levels[position]
                self.levels[n] = 0
                return position
            highest = max(highest, level)
        last = next(reversed(self.levels))
        if last == 0:
            return n  # the start alone
        self.levels[n] = self.levels.pop(last) + 1
        return last
