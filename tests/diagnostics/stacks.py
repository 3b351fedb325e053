"""Stacks whose behaviour is known in closed form."""

from torch import Tensor, nn

from odenets.blocks import Residual
from odenets.models import FlowStack


class Linear(nn.Module):
    """x' = x A^T, A a parameter."""

    def __init__(self, matrix: Tensor):
        super().__init__()
        self.weight = nn.Parameter(matrix.clone())

    def forward(self, t, x: Tensor) -> Tensor:
        return x @ self.weight.T


def linear_stack(matrices: list[Tensor], T: float) -> FlowStack:
    """Residual blocks x + h A_n x."""
    made = iter(matrices)
    return FlowStack(lambda: Residual(Linear(next(made))), T=T, N=len(matrices))
