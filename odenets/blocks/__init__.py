"""Blocks: one step of a scheme on a flow, as a module."""

from odenets.blocks.base import Block
from odenets.blocks.residual import Residual

__all__ = ["Block", "Residual"]
