"""Blocks: one step of a scheme on a flow, as a module."""

from odenets.blocks.base import Block, ReversibleBlock
from odenets.blocks.branches import Prenormed
from odenets.blocks.residual import Residual

__all__ = [
    "Block",
    "Prenormed",
    "Residual",
    "ReversibleBlock",
]
