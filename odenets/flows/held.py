"""A flow for exponential methods: its linear part at one point, held fixed, and the rest of the field."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from odenets.flows.flow import SemilinearFlow
from odenets.solvers.structured.semilinear_field import SemilinearField, apply


def semilinear_field(flow: SemilinearFlow, t: Tensor | float, x: Tensor) -> SemilinearField:
    """The same field as `f = L x + N`, L = A(t, x) held fixed, for etd1, etdrk2, etdrk4 and hochost4.

    N(t, x) = b(t, x) + (A(t, x) - L) x: the forcing alone where A is constant. What is stiff in A near (t, x) is so
    integrated exactly. L is a number to the gradient, like a step size: derivatives with respect to what A depends on go
    through N.

    Args:
        flow: the flow.
        t: time of the point, a float or [].
        x: its state, of the shape that is to be integrated.
    """
    with torch.no_grad():
        time = torch.as_tensor(t, dtype=torch.empty((), dtype=x.dtype).abs().dtype, device=x.device)
        linear = flow.freeze(time, x).linear
        held, diagonal = linear.data()
        held = held.to(x.device, torch.promote_types(held.dtype, x.dtype)).clone()
    return SemilinearField(held, _Rest(flow, held, diagonal), diagonal, -linear.core_dims)


class _Rest(nn.Module):
    """N = f - L x, without the difference of large numbers where A is L."""

    held: Tensor

    def __init__(self, flow: SemilinearFlow, held: Tensor, diagonal: bool) -> None:
        super().__init__()
        self.flow, self.diagonal = flow, diagonal
        self.register_buffer("held", held)

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        linear, forcing = self.flow.freeze(t, x)
        change = linear.data()[0].to(x.device) - self.held
        moved = apply(change, x, self.diagonal, -linear.core_dims)
        return (linear.field(torch.zeros_like(x), forcing) + moved).to(x.dtype)
