"""Gradients against central differences, where the loss must see the very same steps on both sides."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor


def assert_gradients_match_differences(
    loss: Callable[[], Tensor], tensors: Sequence[Tensor], *, step: float, rel: float, abs: float
) -> None:
    """The gradients of `loss()` with respect to leaf tensors, which it reads, element by element.

    Args:
        loss: computes the loss from the tensors as they are.
        tensors: leaves that require gradients; moved and put back.
        step: of the differences, for elements up to 1, relative to larger ones.
        rel, abs: tolerances.
    """
    gradients = torch.autograd.grad(loss(), tensors)
    for tensor, gradient in zip(tensors, gradients):
        flat = tensor.detach().view(-1)
        for i, found in enumerate(gradient.reshape(-1).tolist()):
            value = float(flat[i])
            size = step * max(1.0, value, -value)
            values = []
            for sign in (1, -1):
                flat[i] = value + sign * size
                with torch.no_grad():
                    values.append(float(loss()))
            flat[i] = value
            assert found == pytest.approx((values[0] - values[1]) / (2 * size), rel=rel, abs=abs)
