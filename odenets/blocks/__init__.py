"""Blocks: one step of a scheme on a flow, as a module."""

from odenets.blocks.base import Block, ReversibleBlock
from odenets.blocks.branches import Prenormed
from odenets.blocks.hamiltonian import Hamiltonian
from odenets.blocks.leapfrog import Leapfrog
from odenets.blocks.momentum import Momentum
from odenets.blocks.residual import Residual
from odenets.blocks.revnet import RevNet

__all__ = [
    "Block",
    "Hamiltonian",
    "Leapfrog",
    "Momentum",
    "Prenormed",
    "Residual",
    "RevNet",
    "ReversibleBlock",
]
