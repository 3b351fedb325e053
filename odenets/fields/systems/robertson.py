"""Robertson's stiff chemical reaction."""

from torch import Tensor

from odenets.fields.systems.base import Coefficient, System


class Robertson(System):
    """`a' = -k1 a + k3 b c,  b' = k1 a - k3 b c - k2 b^2,  c' = k2 b^2`; concentrations, dimensionless.

    The three reactions A -> B (k1 = 0.04), B + B -> C + B (k2 = 3e7) and B + C -> A + C (k3 = 1e4) from (1, 0, 0).
    Their rates span nine orders of magnitude: explicit methods need about 1e4 steps per unit of time; use an implicit
    one and float64. Usually integrated to t = 1e5 and up to 1e11.

    Source: H. H. Robertson (1966) in Numerical Analysis: An Introduction (ed. J. Walsh); Hairer, Wanner, Solving
    ODEs II, section IV.1.
    """

    names = ("a", "b", "c")
    initial = (1.0, 0.0, 0.0)
    span = (0.0, 1e5)

    def __init__(
        self,
        k1: float | Tensor = 0.04,
        k2: float | Tensor = 3e7,
        k3: float | Tensor = 1e4,
        learnable: bool = False,
    ):
        super().__init__()
        self.k1 = Coefficient("k1", k1, learnable)
        self.k2 = Coefficient("k2", k2, learnable)
        self.k3 = Coefficient("k3", k3, learnable)

    def rhs(self, t: Tensor, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        a, b, c = x
        first = self.k1() * a
        second = self.k2() * b * b
        third = self.k3() * b * c
        return third - first, first - third - second, second

    def total(self, x: Tensor) -> Tensor:
        """`a + b + c` [...] for x [..., 3]: the amount of matter, constant along solutions."""
        a, b, c = self.split(x)
        return a + b + c
