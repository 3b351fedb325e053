"""What a structured linear part can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from odenets.flows.linear.undo import Undo
from odenets.flows.scheme import Scheme
from odenets.kernels.backend import fused

StepSize = float | Tensor


class Outer(NamedTuple):
    """The forcing u v^T [.., m, c] without forming it: u [.., m], v [.., c]."""

    u: Tensor
    v: Tensor


class Along(NamedTuple):
    """The forcing `rate k v^T` along a rank-one part's own k, given by v [.., d_v] alone."""

    v: Tensor


Forcing = Tensor | Outer | Along | None


class LinearPart(ABC):
    """A in `x' = A x + b`, held fixed: tensors per token, or shared by all tokens.

    States are [*tokens, *core]: core is the last dimension, or the last two. A acts on the first core dimension. Each
    part knows its own closed form of `R(hA) x + h Q(hA) b` and takes R and Q from the scheme.

    Attributes:
        core_dims: number of trailing dimensions of the state that are not tokens.
    """

    core_dims: ClassVar[int]

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """A x, in x's shape."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """A as a dense matrix [.., m, m], to check against."""

    def data(self) -> tuple[Tensor, bool]:
        """A as (matrices [.., m, m], False), or as (a diagonal that broadcasts against the state, True)."""
        return self.matrix(), False

    def forcing(self, b: Forcing) -> Tensor | float:
        """b as a tensor that broadcasts against the state."""
        if b is None:
            return 0.0
        if isinstance(b, Outer):
            return b.u.unsqueeze(-1) * b.v.unsqueeze(-2)
        if isinstance(b, Along):
            raise ValueError(f"{type(self).__name__} has no k for an Along forcing; pass a tensor or Outer(u, v).")
        return b

    def field(self, x: Tensor, b: Forcing = None) -> Tensor:
        """The vector field A x + b, in x's shape and dtype."""
        return (self.apply(x) + self.forcing(b)).to(x.dtype)

    def propagate(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing = None) -> Tensor:
        """One step R(hA) x + h Q(hA) b.

        Args:
            scheme: gives R and Q.
            h: step size: a float, a 0-dim tensor, or a tensor over the first of x's token dimensions: [B] or [B, T] for
                x [B, T, *core]. Differentiable.
            x: state [*tokens, *core].
            b: forcing: a tensor that broadcasts against x, `Outer`, `Along` (rank one only), or None.

        Returns:
            The new state in x's shape and dtype, computed in x's precision but at least in float32, autocast or not.

        Raises:
            ValueError: if the shapes of h, x and the part do not fit.
        """
        self._check(x)
        if fused(x):
            new = self._fused(scheme, h, x, b)
            if new is not None:
                return new
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        with torch.autocast(x.device.type, enabled=False):
            new = self._propagate(scheme, over_tokens(h, wide, self.core_dims), wide, _like(b, wide))
        return new.to(x.dtype)

    def _fused(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing) -> Tensor | None:
        """`propagate` by a kernel, in x's own dtype; None where there is none for this part and forcing."""
        return None

    def undo(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing = None) -> Undo:
        """What rebuilds x from `propagate(scheme, h, x, b)`, smaller than x; same arguments.

        Raises:
            ValueError: a part without such a form (all but `RankOne` with `Along`, and `StreamMatrix` with `Outer`).
        """
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        with torch.autocast(x.device.type, enabled=False):
            return self._undo(scheme, over_tokens(h, wide, self.core_dims), wide, _like(b, wide))

    def _undo(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing) -> Undo:
        raise ValueError(
            f"a step of {type(self).__name__} is not undone from less than its state: only delta steps and mixings of "
            "streams are"
        )

    @abstractmethod
    def _propagate(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing) -> Tensor:
        """`propagate` with h a float or broadcastable against x, everything in one precision."""

    @abstractmethod
    def _check(self, x: Tensor) -> None:
        """Raises ValueError unless the part fits the state."""


def over_tokens(h: StepSize, x: Tensor, core_dims: int) -> StepSize:
    """h [], or [first token dimensions], shaped to broadcast against x [*tokens, *core], in x's dtype."""
    if not isinstance(h, Tensor):
        return h
    h = h.to(x.dtype)
    if h.dim() == 0:
        return h
    tokens = x.shape[: x.dim() - core_dims]
    if h.dim() > len(tokens) or any(a not in (1, b) for a, b in zip(h.shape, tokens)):
        raise ValueError(
            f"h must be a number or one step size per token {list(tokens)} (or per leading dimension of them), "
            f"got {list(h.shape)} for a state {list(x.shape)}."
        )
    return h.reshape(*h.shape, *[1] * (x.dim() - h.dim()))


def _like(b: Forcing, x: Tensor) -> Forcing:
    if b is None:
        return None
    if isinstance(b, Outer):
        return Outer(b.u.to(x.dtype), b.v.to(x.dtype))
    if isinstance(b, Along):
        return Along(b.v.to(x.dtype))
    return b.to(x.dtype)


def fit(part: LinearPart, name: str, shape: torch.Size, wanted: int, x: Tensor, dim: int) -> None:
    """Raises ValueError unless x has the core dimensions and x.shape[dim] is what the part's tensor has."""
    if x.dim() < part.core_dims or x.shape[dim] != wanted:
        raise ValueError(
            f"{type(part).__name__} with {name} {list(shape)} acts on dimension {dim} of the state, which must be "
            f"{wanted}, got a state {list(x.shape)}."
        )
