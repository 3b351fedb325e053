"""Forgetting along one direction: the flow of Deep Delta Learning."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from odenets.flows.linear.base import Along, Forcing, LinearPart, StepSize, fit
from odenets.flows.linear.undo import RankOneUndo, Undo
from odenets.flows.scheme import Scheme
from odenets.kernels.delta import delta

COEFFICIENTS = ("paper", "exact")


class RankOne(LinearPart):
    """A = -rate k k^T on X [.., d, d_v], in O(d d_v) per token.

    With kappa = |k|^2 and step s = h rate, A has the one eigenvalue -rate kappa besides 0, so

        R(hA) X  = X - c k (k^T X),               c = s Q(-s kappa) = (1 - R(-s kappa)) / kappa
        h Q(hA) b = h b - h s Q2(-s kappa) k (k^T b),

    and for the delta flow's own b = rate k v^T both together are X + c k (v^T - k^T X): Deep Delta Learning
    (arXiv:2601.00417) with gate c. For |k| = 1, c = beta(s).

    Args:
        k: directions [.., d] or [d], of norm 1 up to a guard against 0.
        coefficient: "paper" takes kappa as 1, so that the gate is beta(s) whatever |k| is, as the paper does; "exact"
            uses kappa.
        rate: a factor per token [..] or [], None for 1.

    Raises:
        ValueError: for another coefficient.
    """

    core_dims: ClassVar[int] = 2

    def __init__(self, k: Tensor, coefficient: str = "paper", rate: Tensor | None = None) -> None:
        if coefficient not in COEFFICIENTS:
            raise ValueError(f"coefficient must be one of {', '.join(COEFFICIENTS)}, got {coefficient!r}.")
        self.k = k
        self.coefficient = coefficient
        self.rate = rate

    def apply(self, x: Tensor) -> Tensor:
        k = self.k.to(x.dtype)
        return self._rated(_outer(k, -_project(k, x)))

    def matrix(self) -> Tensor:
        return self._rated(-_outer(self.k, self.k))

    def forcing(self, b: Forcing) -> Tensor | float:
        if isinstance(b, Along):
            return self._rated(_outer(self.k.to(b.v.dtype), b.v))
        return super().forcing(b)

    def field(self, x: Tensor, b: Forcing = None) -> Tensor:
        if not isinstance(b, Along):
            return super().field(x, b)
        k = self.k.to(x.dtype)
        return self._rated(_outer(k, b.v.to(x.dtype) - _project(k, x)))

    def gate(self, scheme: Scheme, h: StepSize) -> Tensor:
        """The coefficient c of the step, in k's precision but at least float32; h as in `propagate`, shape [..]."""
        k = self.k.to(torch.promote_types(self.k.dtype, torch.float32))
        h = h.to(k.dtype) if isinstance(h, Tensor) else h
        s = h if self.rate is None else h * self.rate.to(k.dtype)
        return self._gate(scheme, s, k.square().sum(-1))

    def _gate(self, scheme: Scheme, s: StepSize, kappa: Tensor) -> Tensor:
        if self.coefficient == "exact":
            return s * scheme.Q(-s * kappa)
        return scheme.gate(s if isinstance(s, Tensor) else torch.full((), s, dtype=kappa.dtype, device=kappa.device))

    def _fused(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing) -> Tensor | None:
        if not isinstance(b, Along):
            return None
        if isinstance(h, Tensor) and h.dim():
            h = h.reshape(*h.shape, *[1] * (x.dim() - 2 - h.dim()))
        return delta(x, self.k, b.v, self.gate(scheme, h), eps=None)[0]

    def _propagate(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing) -> Tensor:
        k = self.k.to(x.dtype)
        kappa = k.square().sum(-1)[..., None, None]
        s = h if self.rate is None else h * self.rate.to(x.dtype)[..., None, None]
        c = self._gate(scheme, s, kappa)
        if isinstance(b, Along):
            return x + c * _outer(k, b.v - _project(k, x))
        new = x - c * _outer(k, _project(k, x))
        if b is None:
            return new
        full = self.forcing(b)
        assert isinstance(full, Tensor)
        q2 = scheme.Q2(-s * (kappa if self.coefficient == "exact" else torch.ones_like(kappa)))
        return new + h * (full - s * q2 * _outer(k, _project(k, full)))

    def _undo(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing) -> Undo:
        if not isinstance(b, Along):
            return super()._undo(scheme, h, x, b)
        k = self.k.to(x.dtype)
        s = h if self.rate is None else h * self.rate.to(x.dtype)[..., None, None]
        c = self._gate(scheme, s, k.square().sum(-1)[..., None, None])
        return RankOneUndo(k, c.squeeze(-1) * (b.v - _project(k, x)))

    def _rated(self, value: Tensor) -> Tensor:
        return value if self.rate is None else self.rate.to(value.dtype)[..., None, None] * value

    def _check(self, x: Tensor) -> None:
        fit(self, "k", self.k.shape, self.k.shape[-1], x, -2)


def guarded_unit(k: Tensor, eps: float = 1e-5) -> Tensor:
    """k / sqrt(|k|^2 + eps^2) over the last dimension, in float32 at least (arXiv:2601.00417): zero stays zero."""
    k = k.to(torch.promote_types(k.dtype, torch.float32))
    return k * torch.rsqrt(k.square().sum(-1, keepdim=True) + eps * eps)


def _project(k: Tensor, x: Tensor) -> Tensor:
    """k^T x: [.., d], [.., d, c] -> [.., c]."""
    return (k.unsqueeze(-1) * x).sum(-2)


def _outer(k: Tensor, v: Tensor) -> Tensor:
    """k v^T: [.., d], [.., c] -> [.., d, c]."""
    return k.unsqueeze(-1) * v.unsqueeze(-2)
