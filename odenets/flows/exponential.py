"""The exponential scheme: exact for a constant linear part and forcing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odenets.flows.scheme import Scheme, check_square
from odenets.solvers.structured.phi import at_least_single, phi


@dataclass(frozen=True)
class Exponential(Scheme):
    """R = e^z, Q = phi_1(z) = (e^z - 1) / z (Hochbruck, Ostermann, Acta Numerica 2010, section 2).

    Its frozen step is the exponential Euler method (ETD1); frozen at the half-step prediction, the exponential
    midpoint rule.
    """

    name: str = "exponential"

    def R(self, z: Any) -> Any:
        return at_least_single(z).exp() if isinstance(z, Tensor) else math.exp(z)

    def Q(self, z: Any) -> Any:
        return phi(1, z)

    def Q2(self, z: Any) -> Any:
        return phi(2, z)

    def gate(self, h: Any) -> Any:
        return -torch.expm1(-at_least_single(h)) if isinstance(h, Tensor) else -math.expm1(-h)

    def matrices(self, m: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one: exp [[m, I], [0, 0]] = [[e^m, phi_1(m)], [0, I]] (Al-Mohy, Higham 2011, theorem 2.1)."""
        m = check_square(m)
        n = m.shape[-1]
        eye = torch.eye(n, dtype=m.dtype, device=m.device).expand_as(m)
        upper = torch.cat([m, eye], dim=-1)
        with torch.autocast(m.device.type, enabled=False):
            e = torch.linalg.matrix_exp(torch.cat([upper, torch.zeros_like(upper)], dim=-2))
        return e[..., :n, :n], e[..., :n, n:]

    def R_matrix(self, m: Tensor) -> Tensor:
        with torch.autocast(m.device.type, enabled=False):
            return torch.linalg.matrix_exp(check_square(m))

    @property
    def order(self) -> float:
        return math.inf

    @property
    def is_explicit(self) -> bool:
        return False

    @property
    def real_limit(self) -> float:
        return math.inf

    @property
    def imaginary_limit(self) -> float:
        return math.inf

    @property
    def reflects_above(self) -> float:
        return math.inf

    @property
    def is_a_stable(self) -> bool:
        return True

    @property
    def is_l_stable(self) -> bool:
        return True
