"""What blocks that look back over depth share."""

from collections.abc import Sequence

import torch
from torch import Tensor


def mix(weights: Sequence[Tensor], tensors: Sequence[Tensor]) -> Tensor:
    """sum_j w_j x_j, with every w_j broadcastable against x_j and of its dtype."""
    total = weights[0] * tensors[0]
    for w, x in zip(weights[1:], tensors[1:]):
        total = torch.addcmul(total, w, x)
    return total
