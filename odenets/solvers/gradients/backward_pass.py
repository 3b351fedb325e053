"""The backward solve of an adjoint from the last output time to the first, with the parameters' gradient beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import SolveError
from ..integrator import Integrator
from ..norms import Norm, rms_norm, rms_norm_per_sample
from ..solution import Stats
from ..solver import Adaptive, FixedStep, Solver
from ..state import StateLayout
from ..tableau import ButcherTableau
from .backward_solver import start_backward
from .quadrature import FlatFunction, ParameterIntegral, VectorJacobianProduct
from .way_back import WayBack, failed


def explicit_tableau(solver: Solver) -> ButcherTableau | None:
    """The solver's method if it is an explicit Runge-Kutta method, whose stages are values of the field."""
    from ..methods import TABLEAUS

    return TABLEAUS.get(solver.method) if isinstance(solver, (Adaptive, FixedStep)) else None


class BackwardPass(ABC):
    """Solves for the adjoint a from output to output, where a jumps by the loss's gradient.

    Args:
        solver: of the forward solve, with an explicit method; the same method and tolerances go backward.
        function: f(t, y) on flat states.
        norm: of a flat state; None for the root mean square.
        span, direction: of the forward solve.
        stats: where to write the cost.
    """

    def __init__(
        self,
        solver: Solver,
        function: FlatFunction,
        norm: Norm | None,
        span: float,
        direction: float,
        stats: Stats,
    ) -> None:
        self.solver, self.function, self.norm = solver, function, norm
        self.span, self.direction, self.stats = span, direction, stats

    @abstractmethod
    def state(self, y: Tensor, a: Tensor) -> Tensor:
        """The state of the backward solve."""

    @abstractmethod
    def adjoint(self, state: Tensor) -> Tensor:
        """a of a state."""

    @abstractmethod
    def field(self, t: Tensor, state: Tensor) -> tuple[Tensor, Sequence[Tensor | None]]:
        """d/dt of the state, and a^T df/dtheta there."""

    @abstractmethod
    def state_norm(self, state: Tensor) -> Tensor:
        """The norm that steers the step size."""

    def run(
        self, ts: Tensor, ys: Tensor, grad_ys: Tensor, params: tuple[Tensor, ...], times_need_grad: bool
    ) -> tuple[Tensor | None, Tensor, list[Tensor]]:
        """Gradients with respect to ts [T] (None if not needed), y0 and params, from those of ys [T, *state].

        dL/dt_i is the loss's gradient at t_i along f, and dL/dt_0 is -a(t_0) along f: no part of the state.
        """
        self.product = VectorJacobianProduct(self.function, params)
        integral = self.parameter_integral(params)
        host: list[float] = ts.tolist()
        a, integrator = grad_ys[-1], None
        for i in range(len(ts) - 1, 0, -1):
            if host[i - 1] != host[i]:  # equal: an event at the very start
                state = self.state(ys[i], a)
                if integrator is None:
                    integrator = self.start(ts[i], state, integral)
                else:
                    integrator.jump(state)
                reached = self._walk(integrator, ts[i - 1 : i], host[i - 1], integral)
                self.arrived(reached, ys[i - 1], ys[i])
                a = self.adjoint(reached)
            a = a + grad_ys[i - 1]
        self.back()
        if integrator is not None:
            self.stats.nfe_backward = self.product.nfe
            self.stats.accepted_backward = integrator.accepted
            self.stats.rejected_backward = integrator.rejected
        grad_ts = self._through_times(ts, ys, grad_ys, a) if times_need_grad else None
        return grad_ts, a, integral.total

    def parameter_integral(self, params: Sequence[Tensor]) -> Any:
        """What adds up int a^T df/dtheta dt over the accepted steps."""
        tableau = explicit_tableau(self.solver)
        assert tableau is not None
        return ParameterIntegral(params, tableau)

    def arrived(self, state: Tensor, y: Tensor, start: Tensor) -> None:
        """The backward solve has come from the forward solve's state `start` to its state y."""

    def back(self) -> None:
        """The backward solve has come to the first time."""

    def start(self, t: Tensor, state: Tensor, integral: Any) -> Integrator:
        """The backward solve's integrator."""

        def noted(t: Tensor, state: Tensor) -> Tensor:
            return integral.note(*self.field(t, state))

        return start_backward(
            self.solver, self.span, noted, StateLayout.of(state), t, state, self.state_norm, -self.direction
        )

    def _walk(self, integrator: Integrator, end: Tensor, time: float, integral: Any) -> Tensor:
        integrator.aim(end, time)
        while (integrator.now - time) * self.direction > 0:
            step = integrator.step()
            if step is None:
                raise SolveError(failed(integrator.message))
            integral.add(step)
        return integrator.y

    def _through_times(self, ts: Tensor, ys: Tensor, grad_ys: Tensor, a: Tensor) -> Tensor:
        along = [*grad_ys.unbind()]
        along[0] = grad_ys[0] - a
        times = ts.to(torch.empty((), dtype=ys.dtype).abs().dtype)
        effects = [
            torch.linalg.vecdot(self.function(t, y).reshape(-1), g.reshape(-1)).real
            for t, y, g in zip(times.unbind(), ys.unbind(), along)
        ]
        return torch.stack(effects).to(ts.dtype)


class WithState(BackwardPass):
    """The continuous adjoint: the state is (y, a) [2, *state], so that y is computed again on the way back."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.way_back = WayBack()

    def arrived(self, state: Tensor, y: Tensor, start: Tensor) -> None:
        self.way_back.note(state[0], y, start)

    def back(self) -> None:
        self.way_back.check()

    def state(self, y: Tensor, a: Tensor) -> Tensor:
        return torch.stack((y, a))

    def adjoint(self, state: Tensor) -> Tensor:
        return state[1]

    def field(self, t: Tensor, state: Tensor) -> tuple[Tensor, Sequence[Tensor | None]]:
        y, a = state.unbind()
        slope, along, gradients = self.product(t, y, a)
        return torch.stack((slope, -along)), gradients

    def state_norm(self, state: Tensor) -> Tensor:
        if self.norm is None:
            return rms_norm_per_sample(state).max()
        sizes = [torch.as_tensor(self.norm(part), device=state.device).abs() for part in state.unbind()]
        return torch.maximum(*sizes)


class AlongPath(BackwardPass):
    """The state is a alone, and y(t) is known: a linear equation, as stable backward as the flow is forward.

    Args:
        path: t [] -> y(t) without a graph.
        *args: as for `BackwardPass`.
    """

    def __init__(self, path: Callable[[Tensor], Tensor], *args: Any) -> None:
        super().__init__(*args)
        self.path = path

    def state(self, y: Tensor, a: Tensor) -> Tensor:
        return a

    def adjoint(self, state: Tensor) -> Tensor:
        return state

    def field(self, t: Tensor, state: Tensor) -> tuple[Tensor, Sequence[Tensor | None]]:
        _, along, gradients = self.product(t, self.path(t).detach(), state)
        return -along, gradients

    def state_norm(self, state: Tensor) -> Tensor:
        return (self.norm or rms_norm)(state)
