"""Predator and prey: the Lotka-Volterra equations."""

from torch import Tensor

from odenets.fields.systems.base import Coefficient, System


class LotkaVolterra(System):
    """`x' = alpha x - beta x y` (prey),  `y' = delta x y - gamma y` (predators).

    x and y are population sizes > 0 in any unit; alpha (prey growth) and gamma (predator death) are rates in 1/time,
    beta and delta in 1/(time * population). Every solution with positive start is periodic. Standard alpha, beta,
    gamma, delta = 1.5, 1, 3, 1 from (1, 1).

    Source: A. J. Lotka, Elements of Physical Biology (1925); V. Volterra, Nature 118 (1926) 558-560.
    """

    names = ("prey", "predators")
    initial = (1.0, 1.0)
    span = (0.0, 10.0)

    def __init__(
        self,
        alpha: float | Tensor = 1.5,
        beta: float | Tensor = 1.0,
        gamma: float | Tensor = 3.0,
        delta: float | Tensor = 1.0,
        learnable: bool = False,
    ):
        super().__init__()
        self.alpha = Coefficient("alpha", alpha, learnable)
        self.beta = Coefficient("beta", beta, learnable)
        self.gamma = Coefficient("gamma", gamma, learnable)
        self.delta = Coefficient("delta", delta, learnable)

    def rhs(self, t: Tensor, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        prey, predators = x
        meetings = prey * predators
        return (
            self.alpha() * prey - self.beta() * meetings,
            self.delta() * meetings - self.gamma() * predators,
        )

    def invariant(self, x: Tensor) -> Tensor:
        """`V = delta x - gamma log x + beta y - alpha log y` [...], constant along solutions, for x [..., 2] > 0."""
        prey, predators = self.split(x)
        return (
            self.delta() * prey - self.gamma() * prey.log() + self.beta() * predators - self.alpha() * predators.log()
        )
