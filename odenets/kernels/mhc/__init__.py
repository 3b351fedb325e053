"""The operators of (manifold-constrained) hyper-connections on streams X [.., n, C]."""

from odenets.kernels.mhc.op import aggregate, aggregate_through, expand, project

__all__ = ["aggregate", "aggregate_through", "expand", "project"]
