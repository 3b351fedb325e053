"""`X+ = X + beta k (v^T - k^T X)`: the write of Deep Delta Learning."""

from odenets.kernels.delta.op import delta, delta_undo

__all__ = ["delta", "delta_undo"]
