"""The operators of (manifold-constrained) hyper-connections on streams X [.., n, C]."""

from odenets.kernels.mhc.op import aggregate, expand, project

__all__ = ["aggregate", "expand", "project"]
