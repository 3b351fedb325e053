"""Rotation with damping: the flow of orthogonal recurrences."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from odenets.flows.linear.base import Forcing, LinearPart, Outer, StepSize, fit
from odenets.flows.scheme import Scheme


class Skew(LinearPart):
    """A = S - S^T - gamma I on x [.., d]: rotation at the rates of the skew part, decay at rate gamma.

    With gamma = 0 and b = 0 the implicit midpoint rule (the Cayley transform) and the exponential scheme preserve the
    norm; forward Euler multiplies it by at least 1 for every h (Helfrich, Willmott, Ye 2018, arXiv:1707.09520;
    Chang et al. 2019, arXiv:1902.09689).

    Args:
        s: matrices [.., d, d] or, shared by all tokens, [d, d].
        gamma: damping, a float or tensor [..] or [].

    Raises:
        ValueError: if s is not square.
    """

    core_dims: ClassVar[int] = 1

    def __init__(self, s: Tensor, gamma: float | Tensor = 0.0) -> None:
        if s.dim() < 2 or s.shape[-1] != s.shape[-2]:
            raise ValueError(f"Skew expects square matrices [.., d, d], got {list(s.shape)}.")
        self.s = s
        self.gamma = gamma

    def matrix(self) -> Tensor:
        return self._matrix(self.s)

    def _matrix(self, s: Tensor) -> Tensor:
        gamma = self.gamma.to(s.dtype)[..., None, None] if isinstance(self.gamma, Tensor) else self.gamma
        return s - s.mT - gamma * torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)

    def apply(self, x: Tensor) -> Tensor:
        return _times(self._matrix(self.s.to(x.dtype)), x)

    def forcing(self, b: Forcing) -> Tensor | float:
        if isinstance(b, Outer):
            raise ValueError("Skew acts on vectors [.., d] and takes no Outer forcing; pass a tensor.")
        return super().forcing(b)

    def _propagate(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing) -> Tensor:
        step = h.unsqueeze(-1) if isinstance(h, Tensor) and h.dim() else h
        m = step * self._matrix(self.s.to(x.dtype))
        if b is None:
            return _times(scheme.R_matrix(m), x)
        r, q = scheme.matrices(m)
        full = self.forcing(b)
        assert isinstance(full, Tensor)
        return _times(r, x) + h * _times(q, full)

    def _check(self, x: Tensor) -> None:
        fit(self, "s", self.s.shape, self.s.shape[-1], x, -1)


def _times(m: Tensor, x: Tensor) -> Tensor:
    """m x: [.., d, d] or [d, d] with [.., d] -> [.., d]; a shared matrix multiplies all tokens at once."""
    return x @ m.mT if m.dim() == 2 else (m @ x.unsqueeze(-1)).squeeze(-1)
