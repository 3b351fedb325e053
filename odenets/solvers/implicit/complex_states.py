"""Complex states as pairs of real numbers [..., 2]: fields need not be holomorphic, so that derivatives are real ones."""

from __future__ import annotations

import torch
from torch import Tensor

from ..one_step import Accuracy
from ..step import Field


class RealField:
    """A field on complex states as one on pairs of real numbers [..., 2]."""

    def __init__(self, field: Field) -> None:
        self.field = field

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.view_as_real(self.field(t, torch.view_as_complex(y.contiguous())))

    def evaluate(self, t: Tensor, y: Tensor) -> Tensor:
        field = getattr(self.field, "evaluate", self.field)
        return torch.view_as_real(field(t, torch.complex(y[..., 0], y[..., 1])))


def over_reals(accuracy: Accuracy) -> Accuracy:
    """The accuracy of complex states for pairs of real numbers."""
    rtol, atol = (x.unsqueeze(-1) if isinstance(x, Tensor) and x.dim() else x for x in (accuracy.rtol, accuracy.atol))
    norm = lambda x: accuracy.norm(torch.view_as_complex(x.contiguous()))  # noqa: E731
    return Accuracy(rtol, atol, norm, accuracy.per_sample)
