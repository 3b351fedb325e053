"""Forward sensitivity: derivatives carried along with the steps, one direction for every number differentiated by.

With Y_i' = S + h sum_j a_ij K_j + h' sum_j a_ij k_j the derivative of a stage's state along a direction,

    K_i = J_i Y_i' + (df/dtheta) theta' + (df/dt) t_i',   S+ = S + h sum_i b_i K_i + h' sum_i b_i k_i,

and over implicit stages (I - h A (x) J) K = the same without the block's own K: the derivatives of the very steps, as
through dual numbers. The steps are chosen by the state alone, and nothing is kept for the backward pass but the
derivatives of the outputs: Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", section I.14;
Maly, Petzold, "Numerical methods and software for sensitivity analysis" (Appl. Numer. Math. 20, 1996).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import jvp, vmap

from ..errors import InputError
from ..once import differentiable_once
from ..one_step import ExplicitRungeKutta
from ..solution import Solution, Stats
from ..step import add_scaled
from .autograd import Autograd
from .base import Gradient, SolveProblem, judged, pad_with_nan, stats_of
from .record import Recording, State, record
from .replay import Gathered, Replay, require_steps, time_derivatives, undisturbed
from .stages import Stages, combined, require_stages, stages_of


@dataclass(frozen=True)
class Forward(Gradient):
    """Exact for Runge-Kutta methods, for few parameters: memory and work grow with their number, not with the steps.

    Args:
        most: numbers to differentiate by, at most; real and imaginary parts count each.
    """

    name: ClassVar[str] = "forward"
    most: int = 1000

    def check(self, problem: SolveProblem) -> None:
        super().check(problem)
        require_steps(problem, self.name)
        require_stages(problem, self.name)

    def solve(self, problem: SolveProblem) -> Solution:
        params = problem.parameters(self.name)
        wanted = [x for x in (problem.ts, problem.y, *params) if x.requires_grad]
        if not torch.is_grad_enabled() or not wanted:
            return Autograd().solve(problem)
        count = sum(_numbers(x) for x in wanted)
        if count > self.most:
            raise InputError(
                f"gradient='forward' carries one derivative for each of {count} numbers: use gradient='adjoint', "
                f"'discrete_adjoint' or 'auto', or Forward(most={count})."
            )
        run = _Run(problem, params)
        ys = _Solve.apply(run, problem.ts, problem.y, *params)
        integrator = run.recording.integrator
        return judged(Solution(problem.ts, ys, run.stats, integrator.status, integrator.message), integrator)


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, ts: Tensor, y: Tensor, *params: Tensor) -> Tensor:
        ys, tangents = run.forward()
        ctx.save_for_backward(tangents, ts, y, *params)
        return ys

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_ys: Tensor) -> Any:
        tangents, *inputs = ctx.saved_tensors
        total = torch.linalg.vecdot(grad_ys.reshape(1, -1), tangents.flatten(1)).real
        parts: list[Tensor | None] = []
        for x in inputs:
            if not x.requires_grad:
                parts.append(None)
                continue
            part, total = total[: _numbers(x)].to(x.real.dtype), total[_numbers(x) :]
            parts.append(
                torch.complex(*part.reshape(*x.shape, 2).unbind(-1)) if x.is_complex() else part.reshape(x.shape)
            )
        return None, *parts


class _Run:
    """A solve with the derivatives [P, *state] of its states along P directions: every number of ts, y0 and the
    parameters that requires grad, in this order.
    """

    recording: Recording

    def __init__(self, problem: SolveProblem, params: tuple[Tensor, ...]) -> None:
        self.problem, self.params = problem, params
        self.stats = Stats()
        inputs = [x for x in (problem.ts, problem.y, *params) if x.requires_grad]
        self.count = sum(_numbers(x) for x in inputs)
        units, first = {}, 0
        for x in inputs:
            units[id(x)] = _unit_directions(x.detach(), first, self.count)
            first += _numbers(x)
        self.along_ts = units.get(id(problem.ts))
        start = units.get(id(problem.y))
        self.start = problem.y.new_zeros(self.count, *problem.y.shape) if start is None else start
        self.along_params = [units[id(p)] for p in params]

    def forward(self) -> tuple[Tensor, Tensor]:
        """States [T, *state] and their derivatives [P, T, *state]."""
        problem = self.problem
        self.recording = recording = record(problem, lambda n, state: None)
        self.stats = stats_of(recording.field, recording.integrator)
        ys, outputs = recording.ys, [self.start[:, None]]
        if recording.draws and not isinstance(recording.bound, ExplicitRungeKutta):
            raise InputError(
                "gradient='forward' takes no implicit steps over random numbers: use gradient='checkpoint'."
            )
        gathered = Gathered(self.params, problem.ts, self.along_ts is not None)
        replay = Replay(problem, recording, gathered, ys)
        state: State = (problem.y.detach(),)
        tangent, carried = self.start, None
        with undisturbed(problem):
            if self.along_ts is not None:
                starts, sizes = (x @ self.along_ts.T for x in time_derivatives(problem, recording))  # [N, P]
            for n, step_record in enumerate(recording.records):
                moved = (starts[n], sizes[n]) if self.along_ts is not None else None
                step = _Step(self, replay, n, state, tangent, carried, moved)
                if step_record.shape is not None:
                    outputs.append(step.outputs())
                state, tangent, carried = step.after, step.tangent, step.along[-1]
        recording.bound.jumped()
        self.stats.nfe_backward = recording.field.nfe - self.stats.nfe
        tangents = torch.cat(outputs, 1)
        return pad_with_nan(ys, len(problem.ts)), pad_with_nan(tangents.transpose(0, 1), len(problem.ts)).transpose(
            0, 1
        )

    def derivative(self, t: Tensor, y: Tensor, dt: Tensor | None, dy: Tensor) -> tuple[Tensor, Tensor]:
        """f(t, y) [*state] and its derivatives [P, *state] along dt [P], dy [P, *state] and the parameters'."""
        with torch.enable_grad():
            t, y = t.detach().requires_grad_(dt is not None), y.detach().requires_grad_(True)
            value = self.recording.field(t, y)
            if not value.requires_grad:
                return value, torch.zeros_like(dy)
            # d/du of <u, df> is df: by two passes backwards, so that parameters may be anywhere
            u = torch.zeros_like(value, requires_grad=True)
            inputs = [y, *self.params, *([] if dt is None else [t])]
            along = [dy, *self.along_params, *([] if dt is None else [dt.to(t.dtype)])]
            pulled = torch.autograd.grad(value, inputs, u, create_graph=True, allow_unused=True)
        pairs = [(p, d) for p, d in zip(pulled, along) if p is not None and p.requires_grad]
        if not pairs:
            return value.detach(), torch.zeros_like(dy)
        roots, directions = zip(*pairs)
        return value.detach(), _pushed(roots, u, directions)


def _pushed(roots: Sequence[Tensor], u: Tensor, directions: Sequence[Tensor]) -> Tensor:
    """sum_i (d roots_i / du)^T d for all directions at once, or one by one where the field cannot be batched."""
    try:
        return torch.autograd.grad(roots, u, directions, is_grads_batched=True, retain_graph=True)[0]
    except RuntimeError:
        rows = [torch.autograd.grad(roots, u, d, retain_graph=True)[0] for d in zip(*directions)]
        return torch.stack(rows)


class _Step:
    """The n-th step with its derivatives.

    Attributes:
        after: the state after it; tangent [P, *state]: its derivatives; along: those of the stages.
    """

    def __init__(
        self, run: _Run, replay: Replay, n: int, state: State, tangent: Tensor, carried: Tensor | None,
        moved: tuple[Tensor, Tensor] | None,
    ) -> None:  # fmt: skip
        self.run, self.replay, self.n, self.before, self.moved = run, replay, n, tangent, moved
        self.stages = step = stages_of(replay, n, state, needed=1)
        self.along: list[Tensor] = []
        self.slopes: list[Tensor] = []
        replay.redraw(replay.records[n].random_first or replay.records[n].random)
        for group in step.groups():
            if group in step.blocks:
                self._solve(step, group)
            elif step.carried:
                assert carried is not None
                self._found(step.slopes[0], carried)
            else:
                self._explicit(step, group.start)
                if group.start == 0 and replay.records[n].random_first is not None:
                    replay.redraw(replay.records[n].random)
        b = step.tableau.b
        self.y1 = add_scaled(step.y, step.h, combined(b, self.slopes))
        self.tangent = self._advanced(b, self.slopes)
        self.after = step.after or (self.y1,)

    def _advanced(self, weights: Any, slopes: Sequence[Tensor | None]) -> Tensor:
        """S + h sum_j w_j K_j over the known K, + h' sum_j w_j k_j."""
        total = add_scaled(self.before, self.stages.h, combined(weights[: len(self.along)], self.along))
        increment = combined(weights, slopes)
        if self.moved is None or increment is None:
            return total
        return total + self.moved[1].to(total.dtype).reshape(-1, *[1] * increment.dim()) * increment

    def _time(self, i: int) -> Tensor | None:
        return None if self.moved is None else self.moved[0] + self.stages.tableau.c[i] * self.moved[1]

    def _found(self, slope: Tensor | None, along: Tensor) -> None:
        assert slope is not None
        self.slopes.append(slope)
        self.along.append(along)

    def _explicit(self, step: Stages, i: int) -> None:
        row = step.matrix[i, :i]
        point = add_scaled(step.y, step.h, combined(row, self.slopes))
        self._found(*self.run.derivative(step.times[i], point, self._time(i), self._advanced(row, self.slopes)))

    def _solve(self, step: Stages, block: slice) -> None:
        indices = range(block.start, block.stop)
        rows = [
            self.run.derivative(
                step.times[i], step.points[i], self._time(i), self._advanced(step.matrix[i], step.slopes)
            )[1]
            for i in indices
        ]
        inverse = step.inverse(block, transposed=False)
        solved = torch.stack([inverse(rhs) for rhs in torch.stack(rows, 1)], 1)  # [m, P, *state]
        for i, along in zip(indices, solved):
            self._found(step.slopes[i], along)

    def outputs(self) -> Tensor:
        """Derivatives [P, m, *state] of the outputs in this step."""
        replay, record = self.replay, self.replay.records[self.n]
        times, shape = replay.times[record.inside], record.shape
        assert shape is not None
        if times == [shape.end] and (self.moved is None or record.ends_at_output):
            return self.tangent[:, None]
        slopes, along = self.slopes, self.along
        end = record.times[-1] if record.end is None else record.end[0]
        if len(slopes) < len(shape.coefficients):
            time = None if self.moved is None else self.moved[0] + self.moved[1]
            if record.end is not None:
                replay.redraw(record.end[1])
            slope, pushed = self.run.derivative(end, self.y1, time, self.tangent)
            slopes, along = [*slopes, slope], [*along, pushed]
        ts = torch.tensor(times, dtype=torch.float64, device=end.device)
        primals, tangents = [self.stages.y, self.y1, *slopes], [self.before, self.tangent, *along]
        if self.moved is not None:
            assert self.run.along_ts is not None
            primals += [shape.t0, torch.tensor(record.h, dtype=torch.float64, device=end.device), ts]
            tangents += [self.moved[0].to(shape.t0.dtype), self.moved[1], self.run.along_ts[:, record.inside]]

        def interpolated(y0: Tensor, y1: Tensor, *rest: Tensor) -> Tensor:
            moving: dict[str, Any] = {}
            wanted = ts
            if self.moved is not None:
                *rest, moving["t0"], moving["h"], wanted = rest  # type: ignore[assignment]
            step = dataclasses.replace(
                shape, y0=y0, y1=y1, stages=list(rest), ends_at_output=record.ends_at_output, **moving
            )
            return step.evaluate(wanted, times)

        return vmap(lambda *d: jvp(interpolated, tuple(primals), d)[1])(*tangents)


def _numbers(x: Tensor) -> int:
    return x.numel() * (2 if x.is_complex() else 1)


def _unit_directions(x: Tensor, first: int, count: int) -> Tensor:
    """[count, *x.shape]: unit vectors of x's numbers from the row `first` on, zeros in the other rows."""
    unit = torch.zeros(count, _numbers(x), dtype=x.real.dtype, device=x.device)
    unit[first : first + _numbers(x)] = torch.eye(_numbers(x), dtype=unit.dtype, device=x.device)
    return torch.view_as_complex(unit.reshape(count, *x.shape, 2)) if x.is_complex() else unit.reshape(count, *x.shape)
