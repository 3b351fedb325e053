"""The coefficients of manifold-constrained hyper-connections from their logits."""

from odenets.kernels.coefficients.op import coefficients

__all__ = ["coefficients"]
