"""Any module as a vector field that does not depend on time."""

from torch import Tensor, nn


class Autonomous(nn.Module):
    """`f(t, x) = module(x)`: makes a field of a module that takes x only, such as an `nn.Sequential`."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        return self.module(x)
