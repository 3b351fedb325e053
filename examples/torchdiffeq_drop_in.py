"""Code written for torchdiffeq runs after changing one import.

python examples/torchdiffeq_drop_in.py
"""

import torch
from torch import nn

from odenets import odeint_adjoint as odeint  # was: from torchdiffeq import odeint_adjoint as odeint


class Spiral(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))

    def forward(self, t, y):
        return self.net(y**3)


def main() -> None:
    torch.manual_seed(0)
    field = Spiral()
    y0 = torch.tensor([[2.0, 0.0]])
    t = torch.linspace(0.0, 1.0, 5)
    ys = odeint(field, y0, t, rtol=1e-7, atol=1e-9, method="dopri5")
    ys[-1].square().sum().backward()
    gradient = torch.cat([p.grad.reshape(-1) for p in field.parameters() if p.grad is not None])
    print(f"y(1) = {ys[-1, 0].tolist()}")
    print(f"gradient by the adjoint equation: {gradient.numel()} numbers, norm {gradient.norm():.6f}")


if __name__ == "__main__":
    main()
