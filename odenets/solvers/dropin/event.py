"""Events in torchdiffeq's sense: one zero crossing ends the solve; and the gradient of its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import SolveError
from ..events.roots import rate_along, shift
from ..fixed import FixedIntegrator
from ..integrator import Integrator
from ..state import StateLayout

FlatEvent = Callable[[Tensor, Tensor], Tensor]
_MOST_STEPS = 20_000


def combined_event(event_fn: Callable[[Tensor, Any], Tensor], layout: StateLayout, t0: Tensor, y0: Tensor) -> FlatEvent:
    """A scalar event on flat states, positive at the start: the smallest of event_fn's elements, each with the sign
    it has at (t0, y0), so that the first of several to cross zero ends the solve.
    """
    with torch.no_grad():
        signs = torch.sign(event_fn(_in_state_precision(t0, y0), layout.unflatten(y0)))

    def event(t: Tensor, y: Tensor) -> Tensor:
        return torch.min(event_fn(_in_state_precision(t, y), layout.unflatten(y)) * signs)

    return event


def _in_state_precision(t: Tensor, y: Tensor) -> Tensor:
    return t.to(torch.empty((), dtype=y.dtype).abs().dtype)


def find_event(integrator: Integrator, event: FlatEvent, tolerance: float) -> tuple[Tensor, Tensor]:
    """Walk until the event changes sign, then bisect on the step's polynomial to |interval| <= tolerance.

    Returns:
        the time (0-dim, detached) and the state there (differentiable at that fixed time).

    Raises:
        SolveError: if the solve fails or 20,000 fixed steps pass without an event.
    """
    integrator.aim(None)
    with torch.no_grad():
        sign = torch.sign(event(integrator.t, integrator.y))
        if bool(sign == 0):
            return integrator.t.detach(), integrator.y
    while True:
        step = integrator.step()
        if step is None:
            raise SolveError(integrator.message)
        with torch.no_grad():
            if not bool(torch.sign(event(integrator.t, integrator.y)) == sign):
                break
        if isinstance(integrator, FixedIntegrator) and integrator.accepted >= _MOST_STEPS:
            raise SolveError(f"Reached maximum number of iterations {_MOST_STEPS} without an event.")
    low, high = step.start, step.end
    with torch.no_grad():
        while abs(high - low) > tolerance:
            middle = (low + high) / 2
            if middle in (low, high):
                break
            t = integrator.t.detach().new_full((), middle)
            y = step.evaluate(t[None], [middle])[0]
            low, high = (middle, high) if bool(torch.sign(event(t, y)) == sign) else (low, middle)
    event_t = integrator.t.detach().new_full((), (low + high) / 2)
    return event_t, step.evaluate(event_t[None], [float(event_t)])[0]


def odeint_event(
    func: Callable[[Tensor, Any], Any],
    y0: Any,
    t0: Tensor,
    *,
    event_fn: Callable[[Tensor, Any], Tensor],
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """Solve until `event_fn` crosses zero, with the event's time and state differentiable.

    With total derivative c' = c_t + c_y f of the event along the solution, the event's time moves by
    -(c_y dy + c_p dp) / c', and the state by dy + f dt: one Newton step, whose value is zero, carries both gradients,
    with respect to y0, t0, the field's and the event's parameters (implicit function theorem).

    Args:
        func, y0: as in `odeint`.
        t0: start, a tensor with one element.
        event_fn: g(t, y) -> scalar, or several of which the first to cross counts.
        reverse_time: walk towards smaller times.
        odeint_interface: `odeint` or `odeint_adjoint`; None is `odeint`.
        **kwargs: handed to it.

    Returns:
        (t_event, y [2, *y0.shape]): the event's time (0-dim) and the states at the start and at the event.
    """
    from .odeint import odeint  # the two modules serve each other

    t0 = t0.reshape(-1)
    t = torch.cat([t0, t0.detach() + (-1.0 if reverse_time else 1.0)])
    interface = odeint if odeint_interface is None else odeint_interface
    event_t, solution = interface(func, y0, t, event_fn=event_fn, **kwargs)

    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        return event_t, solution
    layout = StateLayout.of(y0)
    event = combined_event(event_fn, layout, t[0].detach(), layout.flatten(y0).detach())
    state = layout.flatten(_map(lambda x: x[-1], solution, layout))
    time = event_t.detach()
    with torch.no_grad():
        slope = layout.flatten(func(_in_state_precision(time, state), layout.unflatten(state)))
    rate = rate_along(event, time, state, slope)
    if rate is None:  # a switch: its time has no derivative
        return event_t, solution
    change = shift(event(time, state), rate + 1e-12)  # a grazing event must not divide by zero
    moved = state + slope * change
    ys = torch.stack([layout.flatten(_map(lambda x: x[0], solution, layout)), moved])
    return time + change.to(time.dtype), layout.unflatten(ys, (2,))


def _map(function: Callable[[Tensor], Tensor], tree: Any, layout: StateLayout) -> Any:
    return function(tree) if layout.spec is None else torch.utils._pytree.tree_map(function, tree)
