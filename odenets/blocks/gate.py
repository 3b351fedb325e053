"""Rates from logits: how a learned gate becomes the speed of a flow."""

import math

import torch
from torch import Tensor, nn

from odenets.flows import Exponential, Scheme

_LARGEST_LOGIT = 30.0  # e^30: the gate is 1e-13 from its limit, and float32 squares it without overflow


def rate_from_logits(scheme: Scheme, z: Tensor, overshoot: bool = True) -> Tensor:
    """A rate >= 0 [*z.shape] such that the scheme's gate at h = 1 is the usual function of the logit z.

    | scheme | rate | gate beta(rate) at h = 1 |
    |---|---|---|
    | forward Euler, other explicit ones | L sigmoid(z), L the end of real stability | forward Euler: 2 sigmoid(z) |
    | backward Euler, implicit midpoint | c e^z, c = 1 - R(-infinity) | c sigmoid(z): sigmoid(z), 2 sigmoid(z) |
    | exponential | softplus(z) | sigmoid(z) |

    Args:
        scheme: the scheme of the block.
        z: logits of any shape.
        overshoot: whether the gate may exceed 1. If not, L is at most where the gate reaches 1, and schemes that reach
            it, such as the implicit midpoint rule, take L sigmoid(z) too.
    """
    limit = scheme.real_limit if overshoot else min(scheme.real_limit, scheme.reflects_above)
    if math.isfinite(limit):
        return limit * z.sigmoid()
    if isinstance(scheme, Exponential):
        return nn.functional.softplus(z)
    return scheme.gate(1e18) * z.clamp(max=_LARGEST_LOGIT).exp()


class Rate(nn.Module):
    """Rates of a flow from features: `rate_from_logits(W c + b)`, or with a hidden layer W2 tanh(W1 c + b1) + b2.

    Logits and rates are computed in float32 at least, autocast or not. Initialisation: b (or b2) constant, W (or W2)
    normal with standard deviation 0.02 so that the gate starts near the same value for all tokens, the hidden layer as
    `nn.Linear`.

    Args:
        dim: size of the features.
        outputs: number of rates.
        bias: initial logit.
        scheme: the scheme of the block.
        hidden: width of the hidden layer, None for none.
        overshoot: see `rate_from_logits`.
    """

    def __init__(
        self,
        dim: int,
        outputs: int,
        bias: float,
        scheme: Scheme,
        hidden: int | None = None,
        overshoot: bool = True,
    ):
        super().__init__()
        self.scheme = scheme
        self.overshoot = overshoot
        self.hidden = None if hidden is None else nn.Linear(dim, hidden)
        self.out = nn.Linear(dim if hidden is None else hidden, outputs)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.constant_(self.out.bias, bias)

    def logits(self, c: Tensor) -> Tensor:
        """c [.., dim]. Returns [.., outputs]."""
        with torch.autocast(c.device.type, enabled=False):
            if self.hidden is not None:
                c = linear_at_least_single(self.hidden, c).tanh()
            return linear_at_least_single(self.out, c)

    def forward(self, c: Tensor) -> Tensor:
        """c [.., dim]. Returns rates [.., outputs] >= 0."""
        return rate_from_logits(self.scheme, self.logits(c), self.overshoot)


def linear_at_least_single(linear: nn.Linear, x: Tensor) -> Tensor:
    """The linear layer with input and weights in float32 at least."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, linear.weight.dtype), torch.float32)
    bias = None if linear.bias is None else linear.bias.to(dtype)
    return nn.functional.linear(x.to(dtype), linear.weight.to(dtype), bias)
