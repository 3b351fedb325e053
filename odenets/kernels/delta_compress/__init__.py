"""`delta` of a sublayer that goes on with the next one's compression and norm while the new state is at hand."""

from odenets.kernels.delta_compress.op import delta_compress

__all__ = ["delta_compress"]
