"""The trace of a field's Jacobian, exactly or by one random vector per sample, for states x [B, d]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

Noise = Literal["rademacher", "gaussian"]


def exact_divergence(field: Callable[..., Tensor], t: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f(t, x) [B, d], tr J [B] and |J|_F^2 [B] of the Jacobian J = df/dx of each sample: d backward passes."""
    value, pullback = _pullback(field, t, x)
    rows = [pullback(one.expand_as(value)) for one in torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)]
    jacobian = torch.stack(rows, dim=-2)  # [B, d, d]
    return value, jacobian.diagonal(dim1=-2, dim2=-1).sum(-1), jacobian.square().sum((-2, -1))


def hutchinson_divergence(
    field: Callable[..., Tensor], t: Tensor, x: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """f(t, x) [B, d], e^T J e [B] and |e^T J|^2 [B] for noise e [B, d]: one backward pass.

    For E[e e^T] = I their expectations are tr J (Hutchinson 1990) and |J|_F^2.
    """
    value, pullback = _pullback(field, t, x)
    product = pullback(noise)
    return value, (product * noise).sum(-1), product.square().sum(-1)


def draw_noise(kind: Noise, x: Tensor) -> Tensor:
    """Independent entries of mean 0 and variance 1 like x: signs, which have the least variance, or normal numbers."""
    if kind == "gaussian":
        return torch.randn_like(x)
    return torch.randint(0, 2, x.shape, device=x.device).to(x.dtype) * 2 - 1


def _pullback(field: Callable[..., Tensor], t: Tensor, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """f(t, x) and v -> v^T J of each sample, differentiable once more where gradients are recorded."""
    if torch._C._functorch.is_functorch_wrapped_tensor(x):  # inside an implicit solver's derivatives
        found: Any = torch.func.vjp(lambda z: field(t, z), x)
        return found[0], lambda v: found[1](v)[0]
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad and recorded else x.detach().requires_grad_()
        value = field(t, x)

    def pull(v: Tensor) -> Tensor:
        if not value.requires_grad:
            return torch.zeros_like(x)
        options: dict[str, Any] = {"create_graph": recorded, "retain_graph": True, "materialize_grads": True}
        return torch.autograd.grad(value, x, v, **options)[0]

    return value if recorded else value.detach(), pull
