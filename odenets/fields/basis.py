"""Bases B_j(t) on [0, T] for weights that are functions of time."""

import math
from abc import ABC, abstractmethod
from fractions import Fraction

import torch
from torch import Tensor


def grid(T: float, pieces: int) -> list[float]:
    """The times 0, T/pieces, ..., T, each the float nearest to the exact j T / pieces: two grids that share a rational
    point share its float, so a step that starts on a jump sees the weights after the jump.
    """
    return [float(Fraction(T) * j / pieces) for j in range(pieces + 1)]


class Basis(ABC):
    """Functions B_0 .. B_{size-1} of t. Pure tensor code: no value is read back from the device.

    Raises:
        ValueError: fewer functions than the basis needs, or T <= 0.
    """

    minimum = 1

    def __init__(self, size: int, T: float = 1.0):
        if size < self.minimum:
            raise ValueError(f"{type(self).__name__} basis expects nodes >= {self.minimum}, got {size}")
        if not (0 < T < math.inf):
            raise ValueError(f"{type(self).__name__} basis expects a finite T > 0, got {T}")
        self.size = size
        self.T = T

    @abstractmethod
    def values(self, t: Tensor) -> Tensor:
        """B_j(t) [*t.shape, size]."""

    def combine(self, t: Tensor, coefficients: Tensor) -> Tensor:
        """`sum_j B_j(t) W_j` for 0-dim t and coefficients W [size, ...]; returns [...] in W's dtype."""
        return torch.tensordot(self.values(t).to(coefficients.dtype), coefficients, dims=1)

    def constant(self, weight: Tensor) -> Tensor:
        """Coefficients [size, *weight.shape] of the function of t that is always `weight`."""
        return weight.expand(self.size, *weight.shape).clone()

    @property
    def jump_times(self) -> tuple[float, ...]:
        """Times inside (0, T) where the weights are discontinuous."""
        return ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size}, T={self.T:g})"


class Piecewise(Basis):
    """B_j = 1 on [jT/size, (j+1)T/size), else 0; the first and last piece extend beyond [0, T].

    Discontinuous at `jump_times`, and from the right: at a jump time the new weights hold. A solver that steps across
    a jump drops to order 1: give the times to an adaptive one (`jump_t`; `NeuralODE` does), or let fixed steps end on
    them, with `FixedStep(..., perturb=True)` so that the last stage of a step still sees the weights before the jump.
    """

    def __init__(self, size: int, T: float = 1.0):
        super().__init__(size, T)
        self._jump_times = tuple(grid(T, size)[1:-1])

    def index(self, t: Tensor) -> Tensor:
        """The piece that holds at t, int64 with t's shape."""
        # One comparison per edge with a Python number: the number is rounded to t's own precision, as t was.
        return sum(((t >= edge).long() for edge in self._jump_times), torch.zeros_like(t, dtype=torch.long))

    def values(self, t: Tensor) -> Tensor:
        pieces = torch.arange(self.size, device=t.device)
        return (self.index(t).unsqueeze(-1) == pieces).to(t.dtype)

    def combine(self, t: Tensor, coefficients: Tensor) -> Tensor:
        # One piece is read, not all. index_select: indexing with a 0-dim tensor would read it on the host.
        return coefficients.index_select(0, self.index(t).reshape(1)).squeeze(0)

    @property
    def jump_times(self) -> tuple[float, ...]:
        return self._jump_times


class Spline(Basis):
    """Clamped cubic B-splines on size - 3 equal intervals of [0, T] (de Boor, A Practical Guide to Splines, 2001,
    ch. IX). A partition of unity; the first and last coefficient are the weights at 0 and at T, and t outside [0, T]
    is moved to the nearer end.

    Twice continuously differentiable in t; the third derivative jumps at the inner knots, so a method of order above 3
    shows its order only between knots.
    """

    minimum = 4

    def values(self, t: Tensor) -> Tensor:
        intervals = self.size - 3
        u = (t * (intervals / self.T)).clamp(0, intervals).unsqueeze(-1)  # in units of a knot interval
        # In these units the knots are small integers: exact, and filled on the device.
        knots = torch.arange(-3, intervals + 4, device=t.device).clamp(0, intervals).to(t.dtype)
        interval = u.detach().floor().clamp(max=intervals - 1)  # the last interval includes T
        # Cox-de Boor: order 1 is the indicator of the interval, each pass raises the order by one.
        values = (interval == torch.arange(-3, intervals + 3, device=t.device)).to(t.dtype)
        for degree in (1, 2, 3):
            # An empty knot span may take any ramp: the function it multiplies is zero.
            span = (knots[degree:] - knots[:-degree]).clamp(min=1)
            ramp = (u - knots[:-degree]) / span
            values = ramp[..., :-1] * values[..., :-1] + (1 - ramp[..., 1:]) * values[..., 1:]
        return values


class Fourier(Basis):
    """1, cos(w t), sin(w t), cos(2 w t), sin(2 w t), ... with w = 2 pi / T: `size` functions.

    Infinitely smooth and periodic: the weights at T are those at 0. After the Galerkin neural ODE of Massaroli et al.
    2020 (arXiv:2002.08071).
    """

    def values(self, t: Tensor) -> Tensor:
        harmonics = torch.arange(1, self.size // 2 + 1, device=t.device)
        angle = t.unsqueeze(-1) * (2 * math.pi / self.T) * harmonics
        waves = torch.stack([angle.cos(), angle.sin()], dim=-1).flatten(-2)[..., : self.size - 1]
        return torch.cat([torch.ones_like(t).unsqueeze(-1), waves], dim=-1)

    def constant(self, weight: Tensor) -> Tensor:
        coefficients = weight.new_zeros(self.size, *weight.shape)
        coefficients[0] = weight
        return coefficients


BASES: dict[str, type[Basis]] = {"piecewise": Piecewise, "spline": Spline, "fourier": Fourier}


def make_basis(name: str, size: int, T: float) -> Basis:
    """The basis of that name.

    Raises:
        ValueError: unknown name, too few functions, or T <= 0.
    """
    if name not in BASES:
        raise ValueError(f"basis= takes one of {tuple(BASES)}, got {name!r}")
    return BASES[name](size, T)
