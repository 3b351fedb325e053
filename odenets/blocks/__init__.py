"""Blocks: one step of a scheme on a flow, as a module."""

from odenets.blocks.base import Block
from odenets.blocks.delta import Delta
from odenets.blocks.highway import Highway
from odenets.blocks.hyper_connections import HyperConnections
from odenets.blocks.manifold_hyper_connections import ManifoldHyperConnections
from odenets.blocks.plain import Plain
from odenets.blocks.residual import Residual

__all__ = ["Block", "Delta", "Highway", "HyperConnections", "ManifoldHyperConnections", "Plain", "Residual"]
