"""The three kinds of step a flow can take: frozen, half frozen, full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from odenets.flows.flow import Frozen, SemilinearFlow
from odenets.flows.registry import resolve_scheme
from odenets.flows.scheme import Scheme
from odenets.solvers import TABLEAUS, ButcherTableau, FixedStep, Solver, solve
from odenets.solvers.solver import resolve_solver
from odenets.solvers.step import over_state, runge_kutta_step, stage_times


def frozen_step(flow: SemilinearFlow, scheme: Scheme | str, t: Tensor | float, x: Tensor, h: Tensor | float) -> Tensor:
    """One evaluation of the flow at (t, x), then `R(hA) x + h Q(hA) b`.

    Order 1 where A or b depend on t or x, the scheme's own order where they are constant.

    Args:
        flow: gives A and b.
        scheme: a Scheme or its name.
        t: time, a float, [] or [B].
        x: state [B, ...].
        h: step size, a float, [] or over the first token dimensions of x, as `LinearPart.propagate` takes it.

    Returns:
        The state at t + h, in x's shape and dtype.
    """
    linear, forcing = flow.freeze(t, x)
    return linear.propagate(resolve_scheme(scheme), h, x, forcing)


def half_frozen_step(
    flow: SemilinearFlow, scheme: Scheme | str, t: Tensor | float, x: Tensor, h: Tensor | float
) -> Tensor:
    """A frozen step of size h/2 predicts the middle; A and b from there carry x over the whole step.

    Two evaluations. Order 2 for every scheme of order >= 2; for the two Euler schemes it stays 1, unless A = 0: then
    this is the explicit midpoint rule for every scheme. A `RankOne` part with the paper's coefficient has order 2 only
    if |k| = 1.

    Args: as for `frozen_step`; h is a float, [] or one per sample [B], because the middle has a time.

    Raises:
        ValueError: if h has more dimensions: a step size per token has no time. Make it a rate of the flow.
    """
    if isinstance(h, Tensor) and h.dim() > 1:
        raise ValueError(
            f"half_frozen_step needs one h, or one per sample [B], got {list(h.shape)}; make gates per token a rate of "
            "the flow."
        )
    scheme = resolve_scheme(scheme)
    linear, forcing = freeze_at_middle(flow, scheme, t, x, h)
    return linear.propagate(scheme, h, x, forcing)


def freeze_at_middle(flow: SemilinearFlow, scheme: Scheme, t: Tensor | float, x: Tensor, h: Tensor | float) -> Frozen:
    """A and b at the middle that a frozen step of size h/2 predicts; arguments as for `half_frozen_step`."""
    linear, forcing = flow.freeze(t, x)
    middle = linear.propagate(scheme, h / 2, x, forcing)
    return flow.freeze(t + h / 2, middle)


def full_step(
    field: Callable[..., Tensor], solver: Solver | str, t: Tensor | float, x: Tensor, h: Tensor | float
) -> Tensor:
    """One step of a solver, which evaluates the field again at its stages: the solver's own order.

    Explicit Runge-Kutta methods on one step run as pure tensor code, with t and h per sample if wanted; any other
    solver goes through `solve` over (t, t + h), which reads the times on the host.

    Args:
        field: f(t, x) -> dx/dt, such as a flow.
        solver: a name ("rk4": one step of it), `FixedStep`, or another solver of odenets.solvers.
        t: time, a float, [] or [B].
        x: state [B, ...].
        h: step size, a float, [] or [B].

    Raises:
        ValueError: for t or h per sample with a solver that has one clock, or an unknown solver.
    """
    if isinstance(solver, str) and solver in TABLEAUS:
        solver = FixedStep(solver, steps=1)
    solver = resolve_solver(solver)
    if isinstance(solver, FixedStep) and _is_single(solver) and solver.method in TABLEAUS:
        return _explicit_step(field, TABLEAUS[solver.method], t, x, h)
    for name, value in (("t", t), ("h", h)):
        if isinstance(value, Tensor) and value.dim():
            raise ValueError(
                f"{type(solver).__name__} has one clock: {name} must be a number or 0-dim, got {value.shape}."
            )
    times = [torch.as_tensor(time, dtype=torch.float64, device=x.device) for time in (t, t + h)]
    return solve(field, x, torch.stack(times), solver=solver, save_at="end").ys[-1]


def _explicit_step(
    field: Callable[..., Any], tableau: ButcherTableau, t: Tensor | float, x: Tensor, h: Tensor | float
) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    if not isinstance(t, Tensor):
        t = torch.full((), t, dtype=torch.float64, device=x.device)
    if isinstance(h, Tensor) and h.dim() and not t.dim():
        t = t.expand(h.shape)
    step = h
    if isinstance(h, Tensor):
        h = h.to(torch.promote_types(t.dtype, h.dtype))
        step = over_state(h, x)
    t = t.to(h.dtype) if isinstance(h, Tensor) else t
    nodes = torch.tensor(tableau.c, dtype=t.dtype, device=x.device)
    times = stage_times(nodes, t, h if not isinstance(h, Tensor) or h.dim() == t.dim() else h.expand(t.shape), dtype)
    return runge_kutta_step(field, tableau, times, step, x, field(times[0], x), with_error=False).y1


def _is_single(solver: FixedStep) -> bool:
    return (
        solver.step_size is None
        and solver.grid_constructor is None
        and not solver.perturb
        and solver.steps in (None, 1)
    )
