"""Sinkhorn-Knopp on n x n matrices per token."""

from odenets.kernels.sinkhorn.op import sinkhorn

__all__ = ["sinkhorn"]
