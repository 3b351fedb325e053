"""Fehlberg's pair of order 2(1), the second-order solution propagated (Fehlberg, NASA TR R-315, 1969, table XIII)."""

from ..tableau import ButcherTableau

FEHLBERG2 = ButcherTableau(
    "fehlberg2",
    2,
    a=((), (1 / 2,), (1 / 256, 255 / 256)),
    b=(1 / 512, 255 / 256, 1 / 512),
    c=(0.0, 1 / 2, 1.0),
    b_error=(-1 / 512, 0.0, 1 / 512),
)
