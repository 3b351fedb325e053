"""Weighted sums over the outputs of earlier layers."""

from odenets.kernels.depth_mix.op import attend, mix

__all__ = ["attend", "mix"]
