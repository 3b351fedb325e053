"""Vector fields whose two halves drive each other: q' = drift(t, p), p' = kick(t, q)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError


class SeparableField(nn.Module):
    """f(t, (q, p)) = (drift(t, p), kick(t, q)), for symplectic Euler, leapfrog and Yoshida's methods. Every other
    solver sees it whole.

    The state is a tuple (q, p) of two tensors, or one tensor [..., 2 d] whose last dimension holds q and then p.
    A field of any class may serve that has methods `drift` and `kick` beside the field itself.

    Args:
        drift: (t, p) -> q' [*q.shape]; the velocity. None is q' = p.
        kick: (t, q) -> p' [*p.shape]; the force. Functions or modules; the solve's `args` go to both.
    """

    def __init__(self, kick: Callable[..., Tensor], drift: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.kick = kick
        self.drift = _momentum if drift is None else drift

    def forward(self, t: Tensor, x: Any, *args: Any) -> Any:
        """x = (q, p), or a tensor [..., 2 d]. Returns dx/dt like x."""
        q, p = halves(x)
        slopes = self.drift(t, p, *args), self.kick(t, q, *args)
        return torch.cat(slopes, -1) if isinstance(x, Tensor) else slopes


class SeparableHamiltonian(SeparableField):
    """Hamilton's equations q' = dH/dp, p' = -dH/dq of H(t, q, p) = T(t, p) + V(t, q), by autograd.

    Args:
        potential: V(t, q) -> energy of each sample, or their sum: whatever its shape, it is summed.
        kinetic: T(t, p) likewise; None is |p|^2 / 2.
    """

    def __init__(self, potential: Callable[..., Tensor], kinetic: Callable[..., Tensor] | None = None) -> None:
        nn.Module.__init__(self)
        self.potential = potential
        self.kinetic = kinetic

    def drift(self, t: Tensor, p: Tensor, *args: Any) -> Tensor:
        return p if self.kinetic is None else energy_gradient(self.kinetic, t, p, args)

    def kick(self, t: Tensor, q: Tensor, *args: Any) -> Tensor:
        return -energy_gradient(self.potential, t, q, args)

    def energy(self, t: Tensor, x: Any, *args: Any) -> Tensor:
        """H as the two functions give it; |p|^2 / 2 is summed over the last dimension."""
        q, p = halves(x)
        kinetic = p.square().sum(-1) / 2 if self.kinetic is None else self.kinetic(t, p, *args)
        return kinetic + self.potential(t, q, *args)


def halves(x: Any) -> tuple[Tensor, Tensor]:
    """q and p of a state. Raises InputError if it is neither a pair nor a tensor of even last dimension."""
    if isinstance(x, Tensor) and x.dim() and x.shape[-1] % 2 == 0:
        q, p = x.chunk(2, -1)
        return q, p
    if isinstance(x, (tuple, list)) and len(x) == 2:
        return x[0], x[1]
    got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
    raise InputError(f"a separable field's state must be a pair (q, p) or a tensor [..., 2 d], got {got}.")


def _momentum(t: Tensor, p: Tensor, *args: Any) -> Tensor:
    return p


def energy_gradient(energy: Callable[..., Tensor], t: Tensor, x: Tensor, args: tuple[Any, ...]) -> Tensor:
    """dH/dx of the summed energy(t, x, *args), differentiable once more where gradients are recorded."""
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        return torch.func.grad(lambda z: energy(t, z, *args).sum())(x)
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad and differentiable else x.detach().requires_grad_()
        value = energy(t, x, *args).sum()
        return torch.autograd.grad(value, x, create_graph=differentiable, materialize_grads=True)[0]
