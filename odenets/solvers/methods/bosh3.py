"""Bogacki and Shampine's pair of order 3(2), first same as last (Appl. Math. Lett. 2, 1989)."""

from ..tableau import ButcherTableau

BOSH3 = ButcherTableau(
    "bosh3",
    3,
    a=((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    b=(2 / 9, 1 / 3, 4 / 9, 0.0),
    c=(0.0, 1 / 2, 3 / 4, 1.0),
    b_error=(2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
)
