"""Mixing of n streams by an unconstrained matrix: the flow of hyper-connections."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from odenets.flows.linear.base import Forcing, LinearPart, Outer, StepSize, fit
from odenets.flows.linear.undo import StreamUndo, Undo
from odenets.flows.scheme import Scheme
from odenets.kernels.mhc import expand


class StreamMatrix(LinearPart):
    """A = M on the streams of X [.., n, C]: R(hM) X + h Q(hM) b by n x n matrices.

    With forward Euler and h = 1, (I + M) X + p F(q^T X) is a hyper-connection (arXiv:2409.19606).

    Args:
        m: matrices [.., n, n] or [n, n].

    Raises:
        ValueError: if they are not square.
    """

    core_dims: ClassVar[int] = 2

    def __init__(self, m: Tensor) -> None:
        if m.dim() < 2 or m.shape[-1] != m.shape[-2]:
            raise ValueError(f"{type(self).__name__} expects square matrices [.., n, n], got {list(m.shape)}.")
        self.m = m

    def apply(self, x: Tensor) -> Tensor:
        return self.m.to(x.dtype) @ x

    def matrix(self) -> Tensor:
        return self.m

    def step_matrices(self, scheme: Scheme, h: StepSize, tokens: int | None = None) -> tuple[Tensor, Tensor]:
        """R(hM) and h Q(hM), each [.., n, n], for a caller that applies them itself (in a fused kernel).

        Args:
            scheme: gives R and Q.
            h: a float, [], or over the first token dimensions.
            tokens: number of token dimensions of the state; None takes those of M.
        """
        m = self.m.to(torch.promote_types(self.m.dtype, torch.float32))
        if isinstance(h, Tensor) and h.dim():
            h = h.to(m.dtype).reshape(*h.shape, *[1] * ((m.dim() - 2 if tokens is None else tokens) + 2 - h.dim()))
        r, q = self._functions(scheme, h * m)
        return r, h * q

    def _functions(self, scheme: Scheme, m: Tensor) -> tuple[Tensor, Tensor]:
        """R(m) and Q(m)."""
        return scheme.matrices(m)

    def step_weights(self, scheme: Scheme, h: StepSize, x: Tensor, b: Outer) -> tuple[Tensor, Tensor]:
        """What a step does to the streams x [.., n, C] with the forcing u v^T: it is R x + p v^T with R [.., n, n] and
        p [.., n], for a kernel."""
        r, q = self.step_matrices(scheme, h, tokens=x.dim() - 2)
        return r, (q @ b.u.to(q.dtype).unsqueeze(-1)).squeeze(-1)

    def _fused(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing) -> Tensor | None:
        return expand(x, *self.step_weights(scheme, h, x, b), b.v) if isinstance(b, Outer) else None

    def _propagate(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing) -> Tensor:
        m = self.m.to(x.dtype)
        if b is None:
            return scheme.R_matrix(h * m) @ x
        r, q = scheme.matrices(h * m)
        if isinstance(b, Outer):
            return r @ x + (h * (q @ b.u.unsqueeze(-1))) * b.v.unsqueeze(-2)
        return r @ x + h * (q @ self.forcing(b))

    def _undo(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing) -> Undo:
        if not isinstance(b, Outer):
            return super()._undo(scheme, h, x, b)
        m = self.m.to(x.dtype)
        p = b.u.unsqueeze(-1)
        if scheme.name == "backward_euler":  # R = Q = (I - hM)^{-1}
            inverse = torch.eye(m.shape[-1], dtype=m.dtype, device=m.device) - h * m
            return StreamUndo(inverse, (h * p).squeeze(-1), b.v)
        r, q = scheme.matrices(h * m)
        inverse = inverse_or_nan(r)
        return StreamUndo(inverse, (inverse @ (h * (q @ p))).squeeze(-1), b.v)

    def _check(self, x: Tensor) -> None:
        fit(self, "m", self.m.shape, self.m.shape[-1], x, -2)


def inverse_or_nan(m: Tensor) -> Tensor:
    """m^{-1} [.., n, n], NaN or infinite where m is singular; does not wait for the device."""
    inverse, info = torch.linalg.inv_ex(m)
    return torch.where((info == 0)[..., None, None], inverse, float("nan"))
