"""Blocks: one step of a scheme on a flow, as a module."""

from odenets.blocks.antisymmetric import Antisymmetric
from odenets.blocks.attention_residual import AttentionResidual
from odenets.blocks.base import Block, ReversibleBlock
from odenets.blocks.branches import Prenormed
from odenets.blocks.delta import Delta
from odenets.blocks.engram import Engram
from odenets.blocks.hamiltonian import Hamiltonian
from odenets.blocks.highway import Highway
from odenets.blocks.hyper_connections import HyperConnections
from odenets.blocks.implicit_euler import ImplicitEuler
from odenets.blocks.leapfrog import Leapfrog
from odenets.blocks.learned_flows import DecayFlow, DeltaRuleFlow, RelaxationFlow, RotationFlow
from odenets.blocks.macaron import Macaron
from odenets.blocks.manifold_hyper_connections import ManifoldHyperConnections
from odenets.blocks.momentum import Momentum
from odenets.blocks.mudd import Mudd
from odenets.blocks.multistep import LinearMultistep
from odenets.blocks.ngram import NgramMemory
from odenets.blocks.plain import Plain
from odenets.blocks.polynet import PolyNet
from odenets.blocks.residual import Residual
from odenets.blocks.revnet import RevNet
from odenets.blocks.runge_kutta import RungeKuttaBlock
from odenets.blocks.semilinear import Semilinear
from odenets.blocks.strang import Strang

__all__ = [
    "Antisymmetric",
    "AttentionResidual",
    "Block",
    "DecayFlow",
    "Delta",
    "DeltaRuleFlow",
    "Engram",
    "Hamiltonian",
    "Highway",
    "HyperConnections",
    "ImplicitEuler",
    "Leapfrog",
    "LinearMultistep",
    "Macaron",
    "ManifoldHyperConnections",
    "Momentum",
    "Mudd",
    "NgramMemory",
    "Plain",
    "PolyNet",
    "Prenormed",
    "RelaxationFlow",
    "Residual",
    "RevNet",
    "ReversibleBlock",
    "RotationFlow",
    "RungeKuttaBlock",
    "Semilinear",
    "Strang",
]
