"""What blocks on two coupled halves share: the state, and the two steps that can be undone."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from odenets.blocks.base import ReversibleBlock, step_size

SPLITS = ("duplicate", "halves")
Field = Callable[[Tensor | float, Tensor], Tensor]


class Pair(NamedTuple):
    """The two halves of a coupled state, q and p (x_1 and x_2, or y and z, in the papers)."""

    q: Tensor
    p: Tensor


class CoupledBlock(ReversibleBlock):
    """A block on a pair (q, p).

    Args:
        split: how `lift` makes the pair from the input: "duplicate": two copies, read out by their mean (branches of
            the input's size); "halves": two halves along `axis`, read out by joining them (branches of half the size).
        axis: the axis that is halved: -1 for features or sequences, 1 for images.

    Raises:
        ValueError: unknown `split`, or (on `lift`) an odd size to halve.
    """

    branches = ("field", "field2")

    def __init__(self, split: str = "duplicate", axis: int = -1):
        super().__init__()
        if split not in SPLITS:
            raise ValueError(f"split= takes one of {SPLITS}, got {split!r}")
        self.split = split
        self.axis = axis

    def lift(self, x: Tensor) -> Pair:
        if self.split == "duplicate":
            return Pair(x, x)
        if x.shape[self.axis] % 2:
            raise ValueError(
                f"split='halves' expects an even size along axis {self.axis}, got {list(x.shape)}; take 'duplicate'"
            )
        return Pair(*x.chunk(2, dim=self.axis))

    def readout(self, state: Pair) -> Tensor:
        if self.split == "duplicate":
            return (state.q + state.p) / 2
        return torch.cat(state, dim=self.axis)

    def extra_repr(self) -> str:
        return f"split={self.split!r}, axis={self.axis}"


def couple(f: Field, g: Field, t: Tensor | float, x: Pair, h: Tensor | float) -> Pair:
    """`q+ = q + h f(t, p)`, then `p+ = p + h g(t, q+)`: symplectic Euler, order 1."""
    step = step_size(h, x.q)
    q = x.q + step * f(t, x.p)
    return Pair(q, x.p + step * g(t, q))


def uncouple(f: Field, g: Field, t: Tensor | float, x: Pair, h: Tensor | float) -> Pair:
    """Undoes `couple`."""
    step = step_size(h, x.q)
    p = x.p - step * g(t, x.q)
    return Pair(x.q - step * f(t, p), p)


def leapfrog(f: Field, g: Field, t: Tensor | float, x: Pair, h: Tensor | float) -> Pair:
    """Half a kick of p, a drift of q, half a kick of p: Stormer-Verlet, order 2 and time-symmetric.

    `q' = f(t, p)`, `p' = g(t, q)` (Hairer, Lubich, Wanner, Geometric Numerical Integration, eq. VI.3.4).
    """
    step = step_size(h, x.q)
    p = x.p + step / 2 * g(t, x.q)
    q = x.q + step * f(t + h / 2, p)
    return Pair(q, p + step / 2 * g(t + h, q))


def unleapfrog(f: Field, g: Field, t: Tensor | float, x: Pair, h: Tensor | float) -> Pair:
    """Undoes `leapfrog`: the same step from t + h with -h."""
    return leapfrog(f, g, t + h, x, -h)
