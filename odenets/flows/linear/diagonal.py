"""Decay at a rate per channel: the flow of highway layers and gated recurrences."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from odenets.flows.linear.base import Forcing, LinearPart, StepSize, fit
from odenets.flows.scheme import Scheme


class Diagonal(LinearPart):
    """A = -diag(tau) on x [.., d]: R(-h tau) x + h Q(-h tau) b, elementwise.

    With b = tau H the step is (1 - T) x + T H with T = beta(h tau), a highway layer (Srivastava, Greff, Schmidhuber
    2015, arXiv:1505.00387, eq. 3): T = h tau for forward Euler, which can leave [0, 1], h tau/(1 + h tau) for backward
    Euler and 1 - e^{-h tau} for the exponential scheme, which cannot.

    Args:
        tau: rates [.., d] or [d].
    """

    core_dims: ClassVar[int] = 1

    def __init__(self, tau: Tensor) -> None:
        self.tau = tau

    def apply(self, x: Tensor) -> Tensor:
        return -self.tau * x

    def matrix(self) -> Tensor:
        return torch.diag_embed(-self.tau)

    def data(self) -> tuple[Tensor, bool]:
        return -self.tau, True

    def _propagate(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing) -> Tensor:
        z = -h * self.tau.to(x.dtype)
        new = scheme.R(z) * x
        return new if b is None else new + h * scheme.Q(z) * self.forcing(b)

    def _check(self, x: Tensor) -> None:
        fit(self, "tau", self.tau.shape, self.tau.shape[-1], x, -1)
