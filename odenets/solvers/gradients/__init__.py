"""How a solve is differentiated. `autograd` needs no code of its own: the steps are ordinary tensor operations."""

from .adjoint import AdjointProblem, adjoint_solve

GRADIENTS = ("autograd", "adjoint")

__all__ = ["GRADIENTS", "AdjointProblem", "adjoint_solve"]
