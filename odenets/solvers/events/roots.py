"""Zero crossings, many at a time: located by a bracketing method, differentiated by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..once import differentiable_once

_LOOK_EVERY = 4  # iterations between looks at whether all brackets are small enough
_BITS = 53


def find_root(value: Callable[[Tensor], Tensor], v_low: Tensor, v_high: Tensor, tolerance: Tensor) -> Tensor:
    """Where in [0, 1] a function changes sign, to |interval| <= 2 tolerance; every element [*B] has its own.

    Inverse quadratic interpolation through the last three points where it is safe, bisection elsewhere (Chandrupatla,
    "A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function without using
    derivatives", Advances in Engineering Software 28, 1997). The host looks at every fourth iteration only.

    Args:
        value: theta [*B] -> values [*B].
        v_low, v_high: values at 0 and 1, of opposite signs; where they are not, the answer means nothing.
        tolerance: [*B], positive.
    """
    # a: the newest point, b: the other end of the bracket, c: the point before
    a, v_a = torch.ones_like(v_high), v_high
    b, v_b = torch.zeros_like(v_low), v_low
    fraction, done = torch.full_like(a, 0.5), torch.zeros_like(a, dtype=torch.bool)
    for iteration in range(2 * _BITS):
        x = torch.where(done, a, a + fraction * (b - a))
        v = value(x)
        kept = torch.sign(v) == torch.sign(v_a)
        c, v_c = torch.where(kept, a, b), torch.where(kept, v_a, v_b)
        b, v_b = torch.where(kept | done, b, a), torch.where(kept | done, v_b, v_a)
        a, v_a = x, torch.where(done, v_a, v)
        least = tolerance / (b - a).abs()
        done = done | (least > 0.5) | (v_a == 0)
        if iteration % _LOOK_EVERY == _LOOK_EVERY - 1 and bool(done.all()):
            break
        xi, phi = (a - b) / (c - b), (v_a - v_b) / (v_c - v_b)
        safe = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        quadratic = v_a / (v_b - v_a) * v_c / (v_b - v_c) + (c - a) / (b - a) * v_a / (v_c - v_a) * v_b / (v_c - v_b)
        fraction = torch.where(safe, quadratic, 0.5)
        fraction = torch.minimum(torch.maximum(fraction, least), 1 - least)
    return torch.where(v_b.abs() < v_a.abs(), b, a)


def rate_along(value: Callable[[Tensor, Tensor], Tensor], t: Tensor, y: Tensor, slope: Tensor) -> Tensor | None:
    """d/dt g(t, y(t)) = g_t + g_y y' [*B], detached; None for a g without derivatives, a switch.

    Args:
        value: g(t [*B], y [*B, ...]) -> [*B].
        slope: y' there [*B, ...].
    """
    with torch.enable_grad():
        t, y = t.detach().clone().requires_grad_(True), y.detach().clone().requires_grad_(True)
        g = value(t, y)
        if not g.requires_grad:
            return None
        g_t, g_y = torch.autograd.grad(g.sum(), (t, y), allow_unused=True)
    rate = torch.zeros(t.shape, dtype=y.abs().dtype, device=t.device)
    rate = rate if g_t is None else rate + g_t.to(rate)
    if g_y is not None:
        rate = rate + (g_y.conj() * slope.detach()).real.reshape(*t.shape, -1).sum(-1)
    return rate


def implicit_time(
    value: Callable[[Tensor, Tensor], Tensor], state_at: Callable[[Tensor], Tensor], t: Tensor, where: Tensor
) -> Tensor:
    """The root t [*B] of g(t, y(t)) with its derivatives with respect to all that g and y depend on.

    The implicit function theorem: dt = -dg / (d/dt g(t, y(t))), exact for the given y(t). First derivatives only: a
    second backward pass is refused.

    Args:
        value: g(t [*B], y [*B, ...]) -> [*B].
        state_at: y(t), differentiable in t.
        t: the root, which carries no gradient yet.
        where: [*B], whether there is a root; elsewhere t is returned as it is.
    """
    if not torch.is_grad_enabled():
        return t
    g = value(t, state_at(t))
    if not g.requires_grad:
        return t
    inner = t.detach().clone().requires_grad_(True)
    along = value(inner, state_at(inner))
    if not along.requires_grad:
        return t
    (rate,) = torch.autograd.grad(along.sum(), inner, allow_unused=True)
    return (
        t if rate is None else t + shift(torch.where(where, g, g.detach()), torch.where(where, rate, 1.0)).to(t.dtype)
    )


def shift(g: Tensor, rate: Tensor) -> Tensor:
    """Zeros shaped like g, whose derivative is that of -g / rate at constant rate."""
    return _Shift.apply(g, rate.detach().to(g.dtype))


class _Shift(torch.autograd.Function):
    @staticmethod
    def forward(g: Tensor, rate: Tensor) -> Tensor:
        return torch.zeros_like(g)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    @differentiable_once
    def backward(ctx, gradient: Tensor):
        (rate,) = ctx.saved_tensors
        return -gradient / rate, None
