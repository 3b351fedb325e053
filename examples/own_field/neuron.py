"""A vector field of one's own, to be compared over solvers without a line of odenets in it.

From this folder:   odenets compare field=neuron.FitzHughNagumo compare=solvers --config-dir configs
"""

import torch
from torch import Tensor, nn


class FitzHughNagumo(nn.Module):
    """A neuron: v' = v - v^3/3 - w + current,  w' = rate (v + 0.7 - 0.8 w); dimensionless."""

    names = ("v", "w")
    initial = (-1.0, 1.0)
    span = (0.0, 40.0)

    def __init__(self, current: float = 0.5, rate: float = 0.08):
        super().__init__()
        self.current = nn.Parameter(torch.tensor(current))
        self.rate = rate

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        v, w = x.unbind(-1)
        return torch.stack([v - v**3 / 3 - w + self.current, self.rate * (v + 0.7 - 0.8 * w)], dim=-1)
