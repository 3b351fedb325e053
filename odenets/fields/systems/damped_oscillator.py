"""The damped harmonic oscillator."""

from torch import Tensor

from odenets.fields.systems.base import Coefficient, System


class DampedOscillator(System):
    """`x' = v,  v' = -frequency^2 x - 2 damping frequency v`.

    frequency in rad/s without damping, damping the ratio to the critical one (1): below it the solution oscillates, above
    it both modes decay, at rates frequency (damping +- sqrt(damping^2 - 1)), which makes large ratios stiff. Standard:
    frequency 1, damping 0.1, from (1, 0).

    Source: any text on mechanics, e.g. Landau, Lifshitz, Mechanics, section 25.
    """

    names = ("x", "v")
    initial = (1.0, 0.0)
    span = (0.0, 20.0)

    def __init__(self, frequency: float | Tensor = 1.0, damping: float | Tensor = 0.1, learnable: bool = False):
        super().__init__()
        self.frequency = Coefficient("frequency", frequency, learnable)
        self.damping = Coefficient("damping", damping, learnable, positive=False)

    def rhs(self, t: Tensor, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        position, v = x
        frequency = self.frequency()
        return v, -(frequency * frequency) * position - 2 * self.damping() * frequency * v

    def energy(self, x: Tensor) -> Tensor:
        """`H = v^2 / 2 + frequency^2 x^2 / 2` [...] for x [..., 2]; constant without damping, falling with it."""
        position, v = self.split(x)
        return v * v / 2 + (self.frequency() * position) ** 2 / 2
