"""Fields that are the symplectic gradient of a learned energy."""

import itertools

import torch
from torch import Tensor, nn

from odenets.solvers.structured.separable_field import SeparableHamiltonian, energy_gradient


class HamiltonianField(nn.Module):
    """`q' = dH/dp, p' = -dH/dq` of a network H(q, p), by autograd, for x = (q, p) [..., dim].

    The Hamiltonian neural network of Greydanus, Dzamba, Yosinski 2019 (arXiv:1906.01563, equation 1): exact solutions
    keep H, whatever its weights.

    Args:
        dim: size of x, even: q, then p.
        hidden: width of the hidden layers.
        depth: number of hidden layers, at least 1.

    Raises:
        ValueError: an odd dim, sizes that are not positive, or (on call) x.shape[-1] != dim.
    """

    def __init__(self, dim: int = 2, hidden: int = 64, depth: int = 2):
        super().__init__()
        self.dim = _even(dim)
        self.network = _energy(dim, hidden, depth)

    def energy(self, t: Tensor | float, x: Tensor) -> Tensor:
        """H [...] of x [..., dim]."""
        return self.network(x).squeeze(-1)

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """x [..., dim]. Returns dx/dt [..., dim]."""
        if x.shape[-1] != self.dim:
            raise ValueError(f"HamiltonianField expects x [..., {self.dim}], got {list(x.shape)}; change its dim")
        dq, dp = energy_gradient(self.energy, torch.as_tensor(t), x, ()).chunk(2, -1)
        return torch.cat([dp, -dq], -1)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class SeparableHamiltonianField(SeparableHamiltonian):
    """The same with H = T(p) + V(q), two networks: also for symplectic methods such as leapfrog.

    Args and errors as of `HamiltonianField`.
    """

    def __init__(self, dim: int = 2, hidden: int = 64, depth: int = 2):
        networks = [_energy(_even(dim) // 2, hidden, depth) for _ in range(2)]
        super().__init__(potential=_WithoutTime(networks[0]), kinetic=_WithoutTime(networks[1]))


class _WithoutTime(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        return self.network(x).squeeze(-1)


def _even(dim: int) -> int:
    if dim < 2 or dim % 2:
        raise ValueError(f"a Hamiltonian field expects an even dim = 2, 4, ... for positions and momenta, got {dim}")
    return dim


def _energy(inputs: int, hidden: int, depth: int) -> nn.Sequential:
    if hidden < 1 or depth < 1:
        raise ValueError(f"a Hamiltonian field expects hidden >= 1 and depth >= 1, got {hidden} and {depth}")
    widths = [inputs, *[hidden] * depth]
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(hidden, 1, bias=False))
