"""The planar Kepler problem."""

from torch import Tensor

from odenets.fields.systems.base import Coefficient, System


class Kepler(System):
    """`q' = v,  v' = -mu q / |q|^3`, q and v in the plane: a body on a fixed centre of attraction.

    mu = G M; with mu = 1 dimensionless (the circular orbit at distance 1 has period 2 pi). Standard start: eccentricity
    0.6 at the point nearest to the centre, q = (0.4, 0), v = (0, 2), which returns after 2 pi. Singular at q = 0.

    Source: Hairer, Lubich, Wanner, Geometric Numerical Integration, section I.2.
    """

    names = ("qx", "qy", "vx", "vy")
    initial = (0.4, 0.0, 0.0, 2.0)
    span = (0.0, 20.0)

    def __init__(self, mu: float | Tensor = 1.0, learnable: bool = False):
        super().__init__()
        self.mu = Coefficient("mu", mu, learnable)

    def rhs(self, t: Tensor, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        qx, qy, vx, vy = x
        squared = qx * qx + qy * qy
        pull = -self.mu() / (squared * squared.sqrt())
        return vx, vy, pull * qx, pull * qy

    def drift(self, t: Tensor | float, v: Tensor) -> Tensor:
        """q' = v for v [..., 2]: with `kick` what symplectic methods take."""
        return v

    def kick(self, t: Tensor | float, q: Tensor) -> Tensor:
        """v' for q [..., 2]."""
        squared = (q * q).sum(-1)
        return (-self.mu() / (squared * squared.sqrt())).unsqueeze(-1) * q

    def energy(self, x: Tensor) -> Tensor:
        """`H = |v|^2 / 2 - mu / |q|` [...] (per mass) for x [..., 4]; constant along solutions, negative when bound."""
        qx, qy, vx, vy = self.split(x)
        return (vx * vx + vy * vy) / 2 - self.mu() / (qx * qx + qy * qy).sqrt()

    def angular_momentum(self, x: Tensor) -> Tensor:
        """`L = qx vy - qy vx` [...] (per mass) for x [..., 4]; constant along solutions."""
        qx, qy, vx, vy = self.split(x)
        return qx * vy - qy * vx
