"""Functions of n x n matrices per token: what schemes make of a generator."""

from odenets.kernels.generator.op import exponential, resolvent

__all__ = ["exponential", "resolvent"]
