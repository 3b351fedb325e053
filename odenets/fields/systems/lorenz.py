"""The Lorenz system."""

from torch import Tensor

from odenets.fields.systems.base import Coefficient, System


class Lorenz(System):
    """`x' = sigma (y - x),  y' = x (rho - z) - y,  z' = x y - beta z`; dimensionless.

    Chaotic at the standard sigma = 10, rho = 28, beta = 8/3 (largest Lyapunov exponent about 0.906): nearby paths
    separate tenfold every 2.5 time units, so compare trajectories only over short spans. Dissipative: the divergence
    is the constant -(sigma + 1 + beta). Standard start (1, 1, 1).

    Source: E. N. Lorenz, Deterministic nonperiodic flow, J. Atmos. Sci. 20 (1963) 130-141.
    """

    names = ("x", "y", "z")
    initial = (1.0, 1.0, 1.0)
    span = (0.0, 20.0)

    def __init__(
        self,
        sigma: float | Tensor = 10.0,
        rho: float | Tensor = 28.0,
        beta: float | Tensor = 8.0 / 3.0,
        learnable: bool = False,
    ):
        super().__init__()
        self.sigma = Coefficient("sigma", sigma, learnable)
        self.rho = Coefficient("rho", rho, learnable)
        self.beta = Coefficient("beta", beta, learnable)

    def rhs(self, t: Tensor, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x_, y, z = x
        return self.sigma() * (y - x_), x_ * (self.rho() - z) - y, x_ * y - self.beta() * z
