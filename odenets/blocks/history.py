"""The state of blocks that look back over depth."""

from typing import NamedTuple

from torch import Tensor


class History(NamedTuple):
    """What the next step reads, and what earlier steps left behind.

    Attributes:
        inputs: the mixtures over depth that the next branch reads, each with the activation's shape; the last one is
            the residual stream, and the output.
        earlier: what is mixed, oldest first, each with the activation's shape.
    """

    inputs: tuple[Tensor, ...]
    earlier: tuple[Tensor, ...]


def mix(weights: list[Tensor], tensors: tuple[Tensor, ...]) -> Tensor:
    """sum_j w_j x_j, with every w_j broadcastable against x_j."""
    total = weights[0] * tensors[0]
    for w, x in zip(weights[1:], tensors[1:]):
        total = total + w * x
    return total


def rms_normed(x: Tensor, axis: int, eps: float) -> Tensor:
    """x divided by its root mean square along axis."""
    return x * (x.square().mean(axis, keepdim=True) + eps).rsqrt()
