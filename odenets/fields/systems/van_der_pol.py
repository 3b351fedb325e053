"""The Van der Pol oscillator."""

from torch import Tensor

from odenets.fields.systems.base import Coefficient, System


class VanDerPol(System):
    """`x' = v,  v' = mu (1 - x^2) v - x`; dimensionless.

    A relaxation oscillator with one attracting limit cycle, of amplitude about 2. Stiff for large mu: on the slow time
    scale t/mu the stiffness is mu^2, so mu = 1000 needs an implicit method. Standard start (2, 0), mu = 1.

    Source: B. van der Pol, On relaxation-oscillations, Phil. Mag. 2 (1926) 978-992; as a stiff test: Hairer, Wanner,
    Solving ODEs II, section IV.1.
    """

    names = ("x", "v")
    initial = (2.0, 0.0)
    span = (0.0, 20.0)

    def __init__(self, mu: float | Tensor = 1.0, learnable: bool = False):
        super().__init__()
        self.mu = Coefficient("mu", mu, learnable)

    def rhs(self, t: Tensor, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        position, v = x
        return v, self.mu() * (1 - position * position) * v - position
