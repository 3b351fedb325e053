"""The Brusselator: an oscillating chemical reaction."""

from torch import Tensor

from odenets.fields.systems.base import Coefficient, System


class Brusselator(System):
    """`x' = a + x^2 y - (b + 1) x,  y' = b x - x^2 y`, well mixed (no diffusion); concentrations, dimensionless.

    Fixed point (a, b/a); it loses stability to a limit cycle at b > 1 + a^2. Standard a = 1, b = 3 from (1.5, 3).

    Source: I. Prigogine, R. Lefever, J. Chem. Phys. 48 (1968) 1695-1700; Hairer, Norsett, Wanner, Solving ODEs I,
    section I.16.
    """

    names = ("x", "y")
    initial = (1.5, 3.0)
    span = (0.0, 20.0)

    def __init__(self, a: float | Tensor = 1.0, b: float | Tensor = 3.0, learnable: bool = False):
        super().__init__()
        self.a = Coefficient("a", a, learnable)
        self.b = Coefficient("b", b, learnable)

    def rhs(self, t: Tensor, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x_, y = x
        reaction = x_ * x_ * y
        converted = self.b() * x_
        return self.a() + reaction - converted - x_, converted - reaction
