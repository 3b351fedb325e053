"""The continuous adjoint: gradients by solving a second ODE backwards, with memory independent of the number of steps.

Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations" (2018), appendix B: with a = dL/dx,

    a' = -(df/dx)^T a,   dL/dtheta = int a^T df/dtheta dt,   dL/dt_i = a(t_i)^T f(t_i, x_i),

solved from the last output time to the first together with x itself; at each output time x is reset to the value of
the forward solve and a jumps by the loss's gradient there. The step size is carried over those jumps: only the
derivative there is evaluated anew. The gradient is as good as the backward tolerance, not exact.

A backward solve that does not come back to the states of the forward one is an error (see `way_back`).

The seminorm (Kidger, Chen, Lyons, "Hey, that's not an ODE", 2021) leaves the integral over theta out of the error. With
an explicit Runge-Kutta method the integral is not even part of the state (see `quadrature`), nor is dL/dt_0; other
methods, and torchdiffeq's interface, carry both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import InputError, SolveError
from ..integrator import Integrator
from ..methods import ONE_STEP
from ..norms import Norm, largest_rms_norm, state_norm
from ..once import differentiable_once
from ..solution import Solution, Stats
from ..solver import WALKERS, Torchdiffeq
from ..state import StateLayout
from .backward_pass import BackwardPass, WithState, explicit_tableau
from .backward_solver import start_backward
from .base import Gradient, SolveProblem, judged, pad_with_nan, stats_of
from .way_back import WayBack, failed

FlatFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Adjoint(Gradient):
    """The continuous adjoint, with the forward solve's method and tolerances."""

    name: ClassVar[str] = "adjoint"

    def check(self, problem: SolveProblem) -> None:
        super().check(problem)
        method = getattr(problem.solver, "method", None)
        known = ONE_STEP.get(method) if isinstance(method, str) else method
        if (isinstance(method, str) and method in WALKERS) or not getattr(known, "integrates_adjoints", True):
            raise InputError(
                f"gradient='adjoint' cannot walk backwards with {getattr(known, 'name', method)}, which needs the Jacobian "
                "of the field it integrates: use gradient='interpolating_adjoint' (as little graph, and stable where the "
                "flow is stiff), 'autograd' or 'checkpoint'."
            )

    def solve(self, problem: SolveProblem) -> Solution:
        solver, flat, ts, y = problem.solver, problem.flat, problem.ts, problem.y
        params = problem.parameters(self.name)
        if isinstance(solver, Torchdiffeq):
            backend: Any = problem.start(ts[0], y)
            ys = torch.cat([y[None], backend.outputs_by_adjoint(ts[1:], params)])
            return Solution(ts, ys, stats_of(flat, backend))
        integrator = problem.start(ts[0].detach(), y.detach())
        stats = Stats()

        def forward() -> Tensor:
            return pad_with_nan(torch.cat([y[None], integrator.outputs(ts[1:].detach())]), len(ts))

        span = float((ts[-1] - ts[0]).detach())
        norm = getattr(solver, "norm", None)
        if explicit_tableau(solver) is not None:
            own = None if norm is None and flat.layout.spec is None else state_norm(flat.layout, norm)
            backward = WithState(solver, flat, own, span, problem.direction, stats)
            ys = adjoint_solve(PassProblem(forward, backward), ts, y, params)
        else:
            adjoint = AdjointProblem(
                flat,
                forward,
                lambda function, layout, t, state, norm: start_backward(
                    solver, span, function, layout, t, state, norm, -problem.direction
                ),
                {"norm": adjoint_norm(state_norm(flat.layout, norm))},
                ts.requires_grad,
                stats,
            )
            ys = adjoint_solve(adjoint, ts, y, params)
        forward_stats = stats_of(flat, integrator)
        stats.nfe, stats.accepted, stats.rejected = forward_stats.nfe, forward_stats.accepted, forward_stats.rejected
        return judged(Solution(ts, ys, stats, integrator.status, integrator.message), integrator)


@dataclass
class AdjointProblem:
    """What the backward solve needs to know.

    Attributes:
        function: f(t, y) on flat states.
        forward: () -> states [T, *state] at the output times (or, with an event, the event's time and [2, *state]),
            run without recording a graph.
        start_backward: (function, layout, t, state, norm) -> an integrator for the augmented state
            (a_t, y, a, *a_params).
        options: holds "norm", a function of the tuple (a_t, y, a, *a_params); looked up when backward runs.
        times_need_grad: whether to carry dL/dt at all.
        stats: where to write the cost of the backward solve.
        strict: whether a backward solve that loses the path is an error, or a warning.
    """

    function: FlatFunction
    forward: Callable[[], Any]
    start_backward: Callable[[FlatFunction, StateLayout, Tensor, Tensor, Norm], Integrator]
    options: dict[str, Any]
    times_need_grad: bool = False
    stats: Stats = field(default_factory=Stats)
    strict: bool = True

    def backward(
        self, ts: Tensor, ys: Tensor, grad_ys: Tensor, params: tuple[Tensor, ...], times_need_grad: bool
    ) -> tuple[Tensor | None, Tensor, list[Tensor]]:
        """Gradients with respect to ts (None if not needed), y0 and params."""
        return _backward(self, self.options["norm"], ts, ys, grad_ys, params, times_need_grad)


@dataclass
class PassProblem:
    """The same with the parameters' gradient outside the backward state.

    Attributes:
        forward: as in `AdjointProblem`.
        backward_pass: of this solve.
    """

    forward: Callable[[], Any]
    backward_pass: BackwardPass
    options: dict[str, Any] = field(default_factory=dict)

    def backward(
        self, ts: Tensor, ys: Tensor, grad_ys: Tensor, params: tuple[Tensor, ...], times_need_grad: bool
    ) -> tuple[Tensor | None, Tensor, list[Tensor]]:
        return self.backward_pass.run(ts, ys, grad_ys, params, times_need_grad)


def adjoint_solve(problem: AdjointProblem | PassProblem, ts: Tensor, y0: Tensor, params: tuple[Tensor, ...]) -> Any:
    """The forward solve's result, differentiable with respect to ts, y0 and params."""
    return _Adjoint.apply(problem, ts, y0, *params)


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, problem: AdjointProblem | PassProblem, ts: Tensor, y0: Tensor, *params: Tensor):
        ctx.problem = problem
        ctx.adjoint_options = problem.options
        device = y0.device.type
        ctx.precision = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        with torch.no_grad():
            result = problem.forward()
        ctx.event = isinstance(result, tuple)
        if ctx.event:
            event_t, ys = result
            ctx.save_for_backward(torch.stack([ts[0], event_t.to(ts)]), ys, *params)
            ctx.times = len(ts)
        else:
            ctx.save_for_backward(ts, result, *params)
        return result

    @staticmethod
    @differentiable_once
    def backward(ctx, *gradients: Tensor):
        ts, ys, *params = ctx.saved_tensors
        # through an event's time flows nothing here: `odeint_event` accounts for it
        grad_ys = gradients[-1]
        device, dtype, enabled = ctx.precision
        with torch.autocast(device, dtype=dtype, enabled=enabled):
            grad_ts, grad_y0, grad_params = ctx.problem.backward(
                ts, ys, grad_ys, tuple(params), ctx.needs_input_grad[1]
            )
        if ctx.event and grad_ts is not None:
            grad_ts = torch.cat([grad_ts[:1], grad_ts.new_zeros(ctx.times - 1)])
        return None, grad_ts, grad_y0, *grad_params


def _backward(
    problem: AdjointProblem,
    norm: Norm,
    ts: Tensor,
    ys: Tensor,
    grad_ys: Tensor,
    params: tuple[Tensor, ...],
    times_need_grad: bool,
) -> tuple[Tensor | None, Tensor, list[Tensor]]:
    """Gradients with respect to ts [T] (None if not needed), y0 [*state] and params, from those of ys [T, *state]."""
    real = torch.empty((), dtype=ys.dtype).abs().dtype
    state = (ts.new_zeros((), dtype=real), ys[-1], grad_ys[-1], *(torch.zeros_like(p) for p in params))
    layout = StateLayout.of(state)
    function = _AugmentedField(problem.function, layout, params, times_need_grad)
    vector = layout.flatten(state)
    grad_ts = torch.zeros_like(ts) if times_need_grad else None
    integrator, way_back = None, WayBack(problem.strict)
    host: list[float] = ts.tolist()
    for i in range(len(ts) - 1, 0, -1):
        adj_t, _, adj_y, *adj_params = layout.unflatten(vector)
        if grad_ts is not None:
            slope = problem.function(ts[i].to(real), ys[i])
            effect = torch.linalg.vecdot(slope.reshape(-1), grad_ys[i].reshape(-1)).real
            grad_ts[i] = effect
            adj_t = adj_t - effect.to(real)
        if i < len(ts) - 1 or grad_ts is not None:
            vector = layout.flatten((adj_t, ys[i], adj_y, *adj_params))
        if host[i - 1] == host[i]:  # an event at the very start
            adj_t, y, adj_y, *adj_params = layout.unflatten(vector)
            vector = layout.flatten((adj_t, y, adj_y + grad_ys[i - 1], *adj_params))
            continue
        if integrator is None:
            integrator = problem.start_backward(function, layout, ts[i], vector, norm)
        else:
            integrator.jump(vector)
        reached = integrator.outputs(ts[i - 1 : i], host[i - 1 : i])
        if not len(reached):
            raise SolveError(failed(integrator.message))
        adj_t, y, adj_y, *adj_params = layout.unflatten(reached[0])
        way_back.note(y, ys[i - 1], ys[i])
        vector = layout.flatten((adj_t, y, adj_y + grad_ys[i - 1], *adj_params))
    way_back.check()
    adj_t, _, adj_y, *adj_params = layout.unflatten(vector)
    if grad_ts is not None:
        grad_ts[0] = adj_t
    if integrator is not None:
        problem.stats.nfe_backward = function.nfe
        problem.stats.accepted_backward = integrator.accepted
        problem.stats.rejected_backward = integrator.rejected
    return grad_ts, adj_y, adj_params


class _AugmentedField:
    """d/dt of (a_t, y, a, *a_params), flattened; counts its calls."""

    def __init__(
        self, function: FlatFunction, layout: StateLayout, params: tuple[Tensor, ...], times_need_grad: bool
    ) -> None:
        self.function, self.layout, self.params, self.times_need_grad = function, layout, params, times_need_grad
        # the field needs only these parts; unflattening all of them costs two views per parameter at every call
        self.head = StateLayout(pytree.tree_structure((0, 0, 0)), layout.shapes[:3], layout.dtypes[:3])
        self.nfe = 0
        self.core = _StateAndAdjoint(self)

    def __call__(self, t: Tensor, vector: Tensor) -> Tensor:
        self.nfe += 1
        _, y, adj_y = self.head.unflatten(vector)
        with torch.enable_grad():
            t = t.detach().requires_grad_(self.times_need_grad)
            y = y.detach().requires_grad_(True)
            slope = self.function(t, y)
            inputs = (*((t,) if self.times_need_grad else ()), y, *self.params)
            if slope.requires_grad:
                found = torch.autograd.grad(slope, inputs, -adj_y, allow_unused=True, retain_graph=True)
            else:
                found = tuple(torch.zeros_like(x) for x in inputs)
        gradients = [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs)]
        if not self.times_need_grad:
            gradients.insert(0, torch.zeros_like(t))
        return self.layout.flatten((gradients[0], slope.detach(), *gradients[1:]))


class _StateAndAdjoint:
    """(y, a) as one state [B, 2, ...] or [2], and its field with a graph: what implicit methods differentiate.

    The two lie behind the first dimension of y, so that samples which do not influence each other stay separate systems.
    """

    def __init__(self, whole: _AugmentedField) -> None:
        self.whole = whole
        self.along = 1 if len(whole.head.shapes[1]) > 1 else 0

    def take(self, vector: Tensor) -> Tensor:
        _, y, adj_y = self.whole.head.unflatten(vector)
        return torch.stack((y, adj_y), dim=self.along)

    def put(self, core: Tensor, vector: Tensor) -> Tensor:
        y, adj_y = core.unbind(self.along)
        return torch.cat((vector[:1], y.reshape(-1), adj_y.reshape(-1), vector[1 + core.numel() :]))

    def __call__(self, t: Tensor, core: Tensor) -> Tensor:
        self.whole.nfe += 1
        with torch.enable_grad():
            return self._slopes(t, core.detach()).detach()

    def evaluate(self, t: Tensor, core: Tensor) -> Tensor:
        """The same, differentiable under `torch.func` and by autograd, and not counted."""
        try:
            y, adj_y = core.unbind(self.along)
            slope, pull = torch.func.vjp(lambda y: self.whole.function(t, y), y)[:2]
            return torch.stack((slope, -pull(adj_y)[0]), dim=self.along)
        except RuntimeError:  # functions of the user's own that torch.func does not know
            with torch.enable_grad():
                return self._slopes(t, core)

    def _slopes(self, t: Tensor, core: Tensor) -> Tensor:
        y, adj_y = core.unbind(self.along)
        y = y if y.requires_grad else y.requires_grad_()
        slope = self.whole.function(t.detach(), y)
        pulled = None
        if slope.requires_grad:
            (pulled,) = torch.autograd.grad(
                slope, y, adj_y, allow_unused=True, create_graph=core.requires_grad, retain_graph=True
            )
        return torch.stack((slope, -(torch.zeros_like(y) if pulled is None else pulled)), dim=self.along)


def adjoint_norm(state_norm: Norm, seminorm: bool = False) -> Norm:
    """The norm of the augmented state (a_t, y, a, *a_params): the largest of its parts' norms.

    Args:
        state_norm: norm of the (flat) state, used for y and a.
        seminorm: leave out the parameters' part.
    """

    def norm(parts: tuple[Tensor, ...]) -> Tensor:
        adj_t, y, adj_y, *adj_params = parts
        sizes = [adj_t.abs(), state_norm(y), state_norm(adj_y)]
        if not seminorm:
            sizes.append(largest_rms_norm(tuple(adj_params)))
        return torch.stack([torch.as_tensor(size, device=y.device).abs().to(adj_t.dtype) for size in sizes]).max()

    return norm


def norm_of_leaves(norm: Norm, layout: StateLayout) -> Norm:
    """A user's norm of (a_t, *y leaves, *a leaves, *a_params) as one of (a_t, y, a, *a_params), for tree states."""
    if layout.spec is None:
        return norm

    def flat_norm(parts: tuple[Tensor, ...]) -> Any:
        adj_t, y, adj_y, *adj_params = parts
        leaves = [*pytree.tree_leaves(layout.unflatten(y)), *pytree.tree_leaves(layout.unflatten(adj_y))]
        return norm((adj_t, *leaves, *adj_params))

    return flat_norm
