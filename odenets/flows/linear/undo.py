"""What rebuilds the state before a frozen step from the state after it.

A step R(hA) X + h Q(hA) b changes X by little data: a rank-one update by two vectors, a mixing of n streams by an n x n
matrix and one row of features. Kept in place of X itself, they undo the step without evaluating its networks again.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from odenets.kernels.backend import fused
from odenets.kernels.delta import delta_undo


class RankOneUndo(NamedTuple):
    """X = X+ - k w^T for X+ = X + k w^T: k [.., d], w [.., d_v]. The difference is kept, so that nothing is divided:
    rounding errors of X+ reach X as they are."""

    k: Tensor
    w: Tensor

    def __call__(self, new: Tensor) -> Tensor:
        """X [.., d, d_v] in X+'s dtype."""
        if fused(new):
            return delta_undo(new, self.k, self.w, new.new_ones(()), eps=None)
        return (new - self.k.unsqueeze(-1) * self.w.unsqueeze(-2)).to(new.dtype)

    @property
    def amplification(self) -> float:
        """By how much rounding errors of X+ may be larger in X."""
        return 1.0


class StreamUndo(NamedTuple):
    """X = M X+ - u v^T with M = R(hA)^{-1} [.., n, n] and u = M h Q p [.., n], v [.., C] of the forcing p v^T."""

    inverse: Tensor
    u: Tensor
    v: Tensor

    def __call__(self, new: Tensor) -> Tensor:
        """X [.., n, C] in X+'s dtype."""
        with torch.autocast(new.device.type, enabled=False):
            wide = new.to(self.inverse.dtype)
            return (self.inverse @ wide - self.u.unsqueeze(-1) * self.v.to(wide.dtype).unsqueeze(-2)).to(new.dtype)

    @property
    def amplification(self) -> Tensor:
        """By how much rounding errors of X+ may be larger in X: the largest row sum of |M| over all tokens, []."""
        sums = self.inverse.abs().sum(-1)
        return sums.amax() if sums.numel() else sums.new_ones(())


Undo = RankOneUndo | StreamUndo
