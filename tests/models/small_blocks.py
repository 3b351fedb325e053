"""Blocks of a few numbers for tests that compile or record whole stacks of them."""

from odenets.blocks import Delta, ManifoldHyperConnections, Residual
from odenets.fields import MLP

BLOCKS = {
    "residual": lambda: Residual(MLP(4, 8, time="concat")),
    "delta": lambda: Delta(MLP(4, 4), dim=4, value_channels=2),
    "mhc": lambda: ManifoldHyperConnections(MLP(4, 4), dim=4, streams=2),
}
