"""The Henon-Heiles system: a star's motion in a galaxy's meridional plane."""

import torch
from torch import Tensor

from odenets.fields.systems.base import Coefficient, System


class HenonHeiles(System):
    """`x'' = -x - 2 coupling x y,  y'' = -y - coupling (x^2 - y^2)`, as first-order system in (x, y, vx, vy).

    Dimensionless. With coupling = 1 orbits of energy below 1/6 stay bounded; they are mostly regular at 1/12 and mostly
    chaotic towards 1/6. Standard start (0, 0.1, 0.5, 0), of energy 0.1297.

    Source: M. Henon, C. Heiles, The applicability of the third integral of motion, Astron. J. 69 (1964) 73-79; Hairer,
    Lubich, Wanner, Geometric Numerical Integration, section I.3.
    """

    names = ("x", "y", "vx", "vy")
    initial = (0.0, 0.1, 0.5, 0.0)
    span = (0.0, 20.0)

    def __init__(self, coupling: float | Tensor = 1.0, learnable: bool = False):
        super().__init__()
        self.coupling = Coefficient("coupling", coupling, learnable, positive=False)

    def rhs(self, t: Tensor, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x_, y, vx, vy = x
        return vx, vy, *self._force(x_, y)

    def drift(self, t: Tensor | float, v: Tensor) -> Tensor:
        """(x, y)' = v for v [..., 2]: with `kick` what symplectic methods take."""
        return v

    def kick(self, t: Tensor | float, q: Tensor) -> Tensor:
        """v' for q = (x, y) [..., 2]."""
        return torch.stack(self._force(*q.unbind(-1)), dim=-1)

    def energy(self, x: Tensor) -> Tensor:
        """`H = (vx^2 + vy^2 + x^2 + y^2) / 2 + coupling (x^2 y - y^3 / 3)` [...] for x [..., 4]; constant in time."""
        x_, y, vx, vy = self.split(x)
        return (vx * vx + vy * vy + x_ * x_ + y * y) / 2 + self.coupling() * (x_ * x_ * y - y * y * y / 3)

    def _force(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        coupling = self.coupling()
        return -x - 2 * coupling * x * y, -y - coupling * (x * x - y * y)
