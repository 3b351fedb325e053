"""Blocks: one step of a scheme on a flow, as a module."""

from odenets.blocks.antisymmetric import Antisymmetric
from odenets.blocks.attention_residual import AttentionResidual
from odenets.blocks.base import Block, ReversibleBlock
from odenets.blocks.branches import Prenormed
from odenets.blocks.engram import Engram
from odenets.blocks.hamiltonian import Hamiltonian
from odenets.blocks.implicit_euler import ImplicitEuler
from odenets.blocks.leapfrog import Leapfrog
from odenets.blocks.macaron import Macaron
from odenets.blocks.momentum import Momentum
from odenets.blocks.mudd import Mudd
from odenets.blocks.multistep import LinearMultistep
from odenets.blocks.ngram import NgramMemory
from odenets.blocks.polynet import PolyNet
from odenets.blocks.residual import Residual
from odenets.blocks.revnet import RevNet
from odenets.blocks.runge_kutta import RungeKuttaBlock
from odenets.blocks.strang import Strang

__all__ = [
    "Antisymmetric",
    "AttentionResidual",
    "Block",
    "Engram",
    "Hamiltonian",
    "ImplicitEuler",
    "Leapfrog",
    "LinearMultistep",
    "Macaron",
    "Momentum",
    "Mudd",
    "NgramMemory",
    "PolyNet",
    "Prenormed",
    "Residual",
    "RevNet",
    "ReversibleBlock",
    "RungeKuttaBlock",
    "Strang",
]
