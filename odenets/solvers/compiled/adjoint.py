"""The continuous adjoint as compiled programs: the forward solve keeps no graph, and one program goes back over all output
times, with the adjoint's jumps there. Mathematics and checks are those of `gradients/adjoint.py`, `backward_pass.py` and
`quadrature.py`: the state is (y, a), the parameters' gradient is the integral over the accepted steps beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import SolveError, Status
from ..fixed import FixedIntegrator
from ..gradients.backward_solver import start_backward
from ..gradients.base import Gradient, SolveProblem, smallest
from ..gradients.way_back import WayBack, failed
from ..initial_step import initial_step
from ..masked import RUNNING, Clock, Stepper
from ..norms import rms_norm, state_norm
from ..solution import Solution, Stats
from ..solver import Adaptive, method_of
from ..state import StateLayout
from ..step import runge_kutta_step, stage_times
from ..tableau import ButcherTableau
from . import adaptive, trace
from .adaptive import numbers_of, settings_of, solution_of
from .along_grid import solve_along
from .differentiable import Differentiable, nodes_of, of_any_length, parameters_of
from .failure import failure_of_one_clock
from .loop import LoopSettings
from .steps import row_of
from .trace import TracedField, loop, pulled


def solve_adaptive(problem: SolveProblem, gradient: Gradient) -> Solution | None:
    """The solution with flat states, differentiable; None if it fails, so that the eager solve says why.

    Raises:
        CannotCapture: if the field cannot be compiled.
    """
    params = parameters_of(problem, gradient)
    outcome, settings = adaptive.run(problem, problem.ts, problem.y)
    if int(outcome.clock.status):
        return None
    ts = problem.ts.detach()
    if len(outcome.ys) < len(ts):
        ts = ts[:: len(ts) - 1]
    run = Backward(problem, settings.tableau, ts, outcome.ys)
    ys = Differentiable.apply(run, problem.y, *params)
    found = solution_of(problem, settings, outcome._replace(ys=ys))
    run.stats = found.stats
    return found


def solve_fixed(problem: SolveProblem, gradient: Gradient, grid: Tensor, places: list[int]) -> Solution:
    """The same on a grid [N + 1], with outputs at these places on it.

    Raises:
        CannotCapture: if the field cannot be compiled.
    """
    params = parameters_of(problem, gradient)
    tableau: Any = method_of(problem.solver.method)  # type: ignore[union-attr]
    found = solve_along(problem, grid, places)
    run = Backward(problem, tableau, problem.ts.detach(), found.ys)
    found.ys, run.stats = Differentiable.apply(run, problem.y, *params), found.stats
    return found


class Backward:
    """The backward solve of one forward solve, for `Differentiable`.

    Args:
        problem: the solve.
        tableau: its method.
        ts: the output times [T], the start first.
        ys: the states there [T, *state].

    Attributes:
        stats: where to write the cost.
    """

    def __init__(self, problem: SolveProblem, tableau: ButcherTableau, ts: Tensor, ys: Tensor) -> None:
        self.problem, self.tableau, self.ts = problem, tableau, ts
        self.ys: Tensor | None = ys
        self.kept = ys.detach().clone()  # the output is the user's
        self.stats = Stats()

    def backward(self, grad_ys: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        problem, ys = self.problem, self.kept
        t = self.ts[-1].to(torch.empty((), dtype=ys.dtype).abs().dtype)
        common = (of_any_length(ys), of_any_length(grad_ys.contiguous()), nodes_of(self.tableau, self.ts))
        build: Any
        inputs: tuple[Tensor, ...]
        if isinstance(problem.solver, Adaptive):
            build = AdaptiveBack(dataclasses.replace(settings_of(problem, False), direction=-problem.direction))
            tolerances = (smallest(problem.solver.rtol), smallest(problem.solver.atol))
            rtol, atol = (torch.tensor(x, dtype=torch.float64, device=ys.device) for x in tolerances)
            inputs = (*common, of_any_length(self.ts), rtol, atol, *numbers_of(problem)[2:])
        else:
            build = FixedBack(self.tableau)
            inputs = (*common, *(of_any_length(x) for x in self._backward_grid()))
        found, read = trace.call(build, ("adjoint", build), problem.flat, t, ys[-1].detach(), *inputs)
        a, worst, status, accepted, rejected, calls, where, size, state, *totals = found
        self._check(int(status), float(where), state, int(accepted) + int(rejected), float(size))
        way_back = WayBack()
        way_back.ratios.append(worst)
        way_back.check()
        stats = self.stats
        stats.nfe_backward, stats.accepted_backward, stats.rejected_backward = int(calls), int(accepted), int(rejected)
        return a, {id(tensor): total for tensor, total in zip(read, totals)}

    def _check(self, status: int, t: float, state: Tensor, trials: int, size: float) -> None:
        if status:
            raise SolveError(failed(failure_of_one_clock(self.problem, Status(status), t, state, trials, size)))

    def _backward_grid(self) -> tuple[Tensor, Tensor, Tensor]:
        """Starts and sizes of the backward steps [M] and the output that each arrives at, -1 for none."""
        problem, y = self.problem, self.kept[-1]
        span = float(self.ts[-1] - self.ts[0])
        integrator = start_backward(
            problem.solver, span, problem.flat, StateLayout.of(y), self.ts[-1], y, rms_norm, -problem.direction
        )
        assert isinstance(integrator, FixedIntegrator)
        starts, sizes, arrivals = [], [], []
        for i in range(len(self.ts) - 1, 0, -1):
            integrator.t, integrator.now = self.ts[i], float(self.ts[i])
            integrator.aim(self.ts[i - 1 : i], float(self.ts[i - 1]))
            grid = integrator.grid
            starts.append(grid[:-1])
            sizes.append(grid.diff())
            arrivals.append(torch.full((len(grid) - 1,), -1, device=grid.device))
            arrivals[-1][-1] = i - 1
        # one more that is not taken: a single step would be a shape of its own
        one = starts[0].new_zeros(1)
        return torch.cat([*starts, one]), torch.cat([*sizes, one]), torch.cat([*arrivals, one.long()])


Stages = list[Sequence[Tensor]]


def _augmented(field: TracedField, found: Stages) -> Callable[[Tensor, Tensor], Tensor]:
    """(t, (y, a)) -> (f, -a^T df/dy); appends a^T df/dtheta to `found`."""

    def slope(t: Tensor, state: Tensor) -> Tensor:
        with torch.enable_grad():
            leaves = field.with_leaves()
            y = state[0].detach().requires_grad_()
            f = leaves(t, y)
            along, *gradients = pulled([f], [y, *leaves.params], [state[1]])
        found.append([g.detach() for g in gradients])
        return torch.stack((f.detach(), -along.detach()))

    return slope


def _integrated(weights: Sequence[float], stages: Stages, k: int) -> Tensor:
    """sum_i b_i a_i^T df/dtheta_k over a step's stages."""
    terms = [stage[k] * weight for weight, stage in zip(weights, stages) if weight]
    return sum(terms[1:], terms[0])


def _lost(found: Tensor, known: Tensor, start: Tensor) -> Tensor:
    """How far the backward solve has come off the forward one, see `WayBack.note`."""
    size = torch.maximum(known.abs().amax(), start.abs().amax())
    ratio = (found - known).abs().amax() / size
    return torch.where(torch.isfinite(size) & (size > 0), ratio, 0.0)


@dataclass(frozen=True)
class AdaptiveBack:
    """Back over the output times with steps of their own size, which is carried over the jumps.

    Called with the last state as y, the states ys [T, *state], their gradients, the nodes [s], the times ts [T], rtol, atol,
    first_step, max_steps. Returns a at the start, how far the path was lost, the status, accepted and rejected steps, calls
    of the field, time, size and state of the last step, and the parameters' gradients.
    """

    settings: LoopSettings

    def __call__(
        self, field: TracedField, t: Tensor, y: Tensor, ys: Tensor, grad_ys: Tensor, nodes: Tensor, ts: Tensor,
        rtol: Tensor, atol: Tensor, first_step: Tensor, max_steps: Tensor,
    ) -> Sequence[Tensor]:  # fmt: skip
        settings, tableau, params = self.settings, self.settings.tableau, len(field.params)
        of_state = state_norm(settings.layout, settings.norm)
        plain = settings.norm is None and settings.layout.spec is None
        weights = tableau.b
        time_dtype = torch.empty((), dtype=y.dtype).abs().dtype

        def norm(state: Tensor) -> Tensor:
            parts = [rms_norm(part) if plain else torch.as_tensor(of_state(part)).abs() for part in state.unbind()]
            return torch.maximum(*parts)

        def stepper_of(function, limit, rtol, atol, max_steps, nodes) -> Stepper:
            return Stepper(
                function, tableau, nodes, limit, settings.direction, rtol, atol, norm, settings.controller,
                settings.min_step, settings.max_step, max_steps, False,
            )  # fmt: skip

        precision = torch.promote_types(time_dtype, torch.float32)
        constants = (rtol.to(precision), atol.to(precision), max_steps, nodes)
        last = torch.full((), ts.shape[0] - 1, dtype=torch.int64, device=y.device)
        zero = torch.zeros_like(last)
        a = row_of(grad_ys, last)
        if settings.given_step:
            size = first_step.clone()
        else:
            function, state = _augmented(field, []), torch.stack((y, a))
            size = initial_step(
                function, row_of(ts, last), state, function(t, state), settings.direction, tableau.control_order - 1,
                *constants[:2], norm, row_of(ts, last - 1),
            )  # fmt: skip
        one = torch.ones_like(size)
        parts = len(Clock._fields)

        def more(i: Tensor, status: Tensor, *values: Tensor) -> Tensor:
            return (i > 0) & (status == 0)

        def interval(field: TracedField, i: Tensor, status: Tensor, *values: Tensor) -> Sequence[Tensor]:
            accepted, rejected, calls, worst, _, size, previous, before, state, *rest = values
            totals, (ys, grad_ys, ts, *constants) = rest[:params], rest[params:]
            start, t = row_of(ys, i), row_of(ts, i)
            found: Stages = []
            state = torch.stack((start, state[1]))
            slope = _augmented(field, found)(t.to(time_dtype), state)
            limit = row_of(ts, i - 1)
            none = torch.zeros_like(i)
            clock = Clock(t, size, state, slope, previous, before, none + RUNNING, none, none)

            def running(*values: Tensor) -> Tensor:
                return Clock(*values[:parts]).status == RUNNING

            def advance(field: TracedField, *values: Tensor) -> Sequence[Tensor]:
                clock, rest = Clock(*values[:parts]), values[parts:]
                first, totals = rest[:params], rest[params : 2 * params]
                limit, *constants = rest[2 * params :]
                stages: Stages = [first]
                after, step = stepper_of(_augmented(field, stages), limit, *constants)(clock)
                h = torch.where(step.accept, step.h, 0.0)
                slopes = [torch.where(step.accept, new, old) for new, old in zip(stages[-1], first)]
                sums = [
                    total - h.to(total.dtype) * _integrated(weights, stages, k) for k, total in enumerate(totals)
                ]  # fmt: skip
                return (*after, *slopes, *sums)

            carried = (*clock, *found[0], *totals)
            ended = loop(field, running, advance, carried, (limit, *constants))
            clock = Clock(*ended[:parts])
            worst = torch.maximum(worst, _lost(clock.y[0], row_of(ys, i - 1), start))
            state = torch.stack((clock.y[0], clock.y[1] + row_of(grad_ys, i - 1)))
            trials = clock.accepted + clock.rejected
            per_step = tableau.stages - 1 + (not tableau.fsal)
            return (
                i - 1, clock.status, accepted + clock.accepted, rejected + clock.rejected, calls + 1 + per_step * trials,
                worst, clock.t, clock.size, clock.previous, clock.before, state, *ended[parts + params :],
            )  # fmt: skip

        carried = (
            last, zero, zero, zero, zero + (0 if settings.given_step else 2), y.new_zeros((), dtype=time_dtype),
            row_of(ts, last), size, one, one, torch.stack((y, a)), *(torch.zeros_like(p) for p in field.params),
        )  # fmt: skip
        _, status, accepted, rejected, calls, worst, where, size, _, _, state, *totals = loop(
            field, more, interval, carried, (ys, grad_ys, ts, *constants)
        )
        return state[1], worst, status, accepted, rejected, calls, where, size, state[0], *totals


@dataclass(frozen=True)
class FixedBack:
    """The same in given steps. Called with the last state as y, ys, grad_ys and nodes as above, the steps' starts and
    sizes [M + 1], and the output that each arrives at, -1 for none; the last of them is not taken.
    """

    tableau: ButcherTableau

    def __call__(
        self, field: TracedField, t: Tensor, y: Tensor, ys: Tensor, grad_ys: Tensor, nodes: Tensor, starts: Tensor,
        sizes: Tensor, arrivals: Tensor,
    ) -> Sequence[Tensor]:  # fmt: skip
        tableau, params = self.tableau, len(field.params)
        time_dtype = torch.empty((), dtype=y.dtype).abs().dtype
        end = torch.full((), starts.shape[0] - 1, dtype=torch.int64, device=y.device)
        zero = torch.zeros_like(end)
        last = torch.full_like(zero, ys.shape[0] - 1)

        def ahead(n: Tensor, *values: Tensor) -> Tensor:
            return n < values[-1]

        def back(field: TracedField, n: Tensor, worst: Tensor, state: Tensor, *values: Tensor) -> Sequence[Tensor]:
            totals, (ys, grad_ys, nodes, starts, sizes, arrivals, _) = values[:params], values[params:]
            t, h = row_of(starts, n), row_of(sizes, n)
            times = stage_times(nodes, t, h, time_dtype)
            stages: Stages = []
            function = _augmented(field, stages)
            slope = function(times[0], state)
            after = runge_kutta_step(function, tableau, times, h.to(state.dtype), state, slope, with_error=False).y1
            sums = tuple(
                total - h.to(total.dtype) * _integrated(tableau.b, stages, k) for k, total in enumerate(totals)
            )
            arrived = row_of(arrivals, n)
            at = arrived.clamp(min=0)
            known = row_of(ys, at)
            lost = torch.where(arrived >= 0, _lost(after[0], known, row_of(ys, at + 1)), 0.0)
            jumped = torch.stack((known, after[1] + row_of(grad_ys, at)))
            return (n + 1, torch.maximum(worst, lost), torch.where(arrived >= 0, jumped, after), *sums)

        state = torch.stack((y, row_of(grad_ys, last)))
        carried = (zero, y.new_zeros((), dtype=time_dtype), state, *(torch.zeros_like(p) for p in field.params))
        _, worst, state, *totals = loop(field, ahead, back, carried, (ys, grad_ys, nodes, starts, sizes, arrivals, end))
        calls = end * tableau.stages
        return state[1], worst, zero, end, zero, calls, starts[0], sizes[0], state[0], *totals
