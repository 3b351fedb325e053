"""Recorded steps run again: without a graph to get at a state, or with one to pull a gradient back through the step.

The gradient is that of the very steps that were taken. Times enter a step through its stages' times and its size;
what reaches them is gathered per step and carried to the output times by `timeline`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ..adaptive import AdaptiveIntegrator
from ..errors import InputError
from ..fixed import FixedIntegrator
from ..solver import WALKERS
from ..step import Trial
from .base import SolveProblem
from .random_state import RandomState
from .record import Recording, State, StepRecord


class Gathered:
    """Gradients with respect to the parameters and the output times, summed over the steps."""

    def __init__(self, params: Sequence[Tensor], ts: Tensor, times_wanted: bool) -> None:
        self.params = tuple(params)
        self.times_wanted = times_wanted
        self.sums: list[Tensor | None] = [None] * len(self.params)
        self.reached = False  # every parameter has a sum by now
        self.ts = torch.zeros_like(ts) if times_wanted else None
        self.starts: dict[int, Tensor] = {}
        self.sizes: dict[int, Tensor] = {}

    def add(self, found: Sequence[Tensor | None]) -> None:
        """Add one gradient for every parameter."""
        if self.reached and not any(g is None for g in found):
            torch._foreach_add_(self.sums, found)  # type: ignore[arg-type]
            return
        for i, g in enumerate(found):
            if g is not None:
                total = self.sums[i]
                self.sums[i] = g.clone() if total is None else total.add_(g)
        self.reached = bool(found) and not any(total is None for total in self.sums)

    def add_times(self, n: int, start: Tensor | None, size: Tensor | None) -> None:
        """Add what reaches the n-th step's start and its size."""
        for table, g in ((self.starts, start), (self.sizes, size)):
            if g is not None:
                table[n] = table[n] + g if n in table else g

    def finished(self) -> list[Tensor]:
        return [torch.zeros_like(p) if g is None else g for p, g in zip(self.params, self.sums)]


class Replay:
    """The steps of a recording, to be run again.

    Args:
        problem: the solve.
        recording: its forward run.
        gathered: where gradients of parameters and times go.
        grad_ys: gradients of the output states [T, *state].

    Attributes:
        advances: steps run again without a graph so far.
    """

    def __init__(self, problem: SolveProblem, recording: Recording, gathered: Gathered, grad_ys: Tensor) -> None:
        self.problem, self.recording, self.gathered = problem, recording, gathered
        self.grad_ys = grad_ys
        self.records = recording.records
        self.nodes: tuple[float, ...] = recording.integrator.method.c  # type: ignore[attr-defined]
        self.times: list[float] = problem.ts.tolist()
        self.advances = 0

    def redraw(self, random: RandomState) -> None:
        """Set the generators back, if the field draws anything at all."""
        if self.recording.draws:
            random.restore()

    def now(self) -> RandomState:
        field = self.recording.field
        return field.now() if self.recording.draws else field.latest

    def advance(self, n: int, state: State) -> State:
        """The state after the n-th step, from the one before it."""
        self.advances += 1
        return self.run(n, state)[0]

    def run(self, n: int, state: State) -> tuple[State, Trial]:
        """The same with the step itself."""
        with torch.no_grad():
            return self._run(n, state, self.records[n].times, self.records[n].h)

    def pull_back(self, n: int, state: State, grads: State) -> State:
        """Gradients with respect to the state before the n-th step, from those of the state after it."""
        record = self.records[n]
        grads, inside = self.arrive(n, grads)
        with torch.enable_grad():
            leaves = tuple(x.detach().requires_grad_(True) for x in state)
            leaf_times = StepTimes(record, self.times[record.inside], self.gathered.times_wanted, inside)
            after, trial = self._run(n, leaves, leaf_times.stages, leaf_times.h)
            roots, values = list(after), list(grads)
            if inside:
                roots.append(self._outputs(record, leaf_times, leaves[0], after[0], trial))
                values.append(self.grad_ys[record.inside])
            inputs = (*leaves, *self.gathered.params, *leaf_times.leaves)
            found = gradients(roots, inputs, values)
        s, p = len(leaves), len(self.gathered.params)
        self.gathered.add(found[s : s + p])
        leaf_times.gather(n, found[s + p :], self.nodes, self.gathered)
        return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(found[:s], leaves))

    def arrive(self, n: int, grads: State) -> tuple[State, bool]:
        """The gradients of the state after the n-th step with that of an output there; and whether there are outputs
        inside the step, whose gradients its polynomial has to take.
        """
        record = self.records[n]
        if record.shape is None:
            return grads, False
        only_end = len(self.times[record.inside]) == 1 and self.times[record.inside][0] == record.shape.end
        if only_end and (record.ends_at_output or not self.gathered.times_wanted):
            return (grads[0] + self.grad_ys[record.inside.start], *grads[1:]), False
        return grads, True

    def _run(self, n: int, state: State, times: Sequence[Tensor], h: float | Tensor) -> tuple[State, Trial]:
        record, field, bound = self.records[n], self.recording.field, self.recording.bound
        y = state[0]
        bound.restore(state[1:], record.notes, (times[0], y))
        self.redraw(record.random)

        def first() -> Tensor:
            if record.carried:
                assert bound.end_slope is not None
                return bound.end_slope
            start = times[0] if self.nodes[0] == 0 else times[0] - self.nodes[0] * h
            if record.random_first is None or record.random_first is record.random:
                return field(start, y)
            between = self.now()
            self.redraw(record.random_first)
            value = field(start, y)
            self.redraw(between)
            return value

        trial = bound.trial(times, h, y, first, with_error=False)
        bound.accepted()
        if getattr(self.recording.integrator, "perturb", False):
            bound.jumped()
        return (trial.y1, *bound.memory()), trial

    def _outputs(self, record: StepRecord, times: StepTimes, y0: Tensor, y1: Tensor, trial: Trial) -> Tensor:
        assert record.shape is not None

        def end_derivative() -> Tensor:
            assert record.end is not None
            self.redraw(record.end[1])
            return self.recording.field(times.end, y1)

        step = dataclasses.replace(
            record.shape, t0=times.start, h=times.h, y0=y0, y1=y1, stages=trial.stages, end_derivative=end_derivative,
            ends_at_output=record.ends_at_output,
        )  # fmt: skip
        return step.evaluate(times.outputs, times.output_times)


class StepTimes:
    """A step's times as tensors, leaves where the times' gradients are wanted; the last three only for outputs inside.

    Attributes:
        stages: times of the stages; h: signed size, a float where no gradient is wanted.
        start, end: of the step; outputs: the times inside it, `output_times` as floats.
    """

    def __init__(self, record: StepRecord, output_times: list[float], wanted: bool, inside: bool) -> None:
        self.output_times, self.inside = output_times, record.inside
        self.leaves: tuple[Tensor, ...] = ()
        self.h: float | Tensor = record.h
        self.stages = times = record.times
        if inside:
            assert record.shape is not None
            ts = torch.tensor(output_times, dtype=torch.float64, device=times[0].device)
            self.start, self.outputs = record.shape.t0, ts
            self.end = times[-1] if record.end is None else record.end[0]
        if wanted:
            stacked = torch.stack(times).requires_grad_(True)
            self.stages = stacked.unbind()
            self.h = torch.tensor(record.h, dtype=torch.float64, device=stacked.device, requires_grad=True)
            self.leaves = (stacked, self.h)
            if inside:
                self.start = self.start.detach().requires_grad_(True)
                self.end = self.end.detach().requires_grad_(True)
                self.outputs = self.outputs.requires_grad_(True)
                self.leaves += (self.start, self.end, self.outputs)

    def gather(self, n: int, found: Sequence[Tensor | None], nodes: Sequence[float], gathered: Gathered) -> None:
        """Hand on the gradients of `leaves`: t + c_i h for the stages, t + h for the end."""
        if not self.leaves:
            return
        stages, h = found[:2]
        gathered.add_times(n, None, h)
        if stages is not None:
            stages = stages.double()
            gathered.add_times(n, stages.sum(), torch.dot(stages, stages.new_tensor(nodes)))
        if len(self.leaves) > 2:
            start, end, outputs = found[2:]
            gathered.add_times(n, start, None)
            gathered.add_times(n, end, end)
            if outputs is not None:
                assert gathered.ts is not None
                gathered.ts[self.inside] += outputs


def gradients(
    roots: Sequence[Tensor], inputs: Sequence[Tensor], values: Sequence[Tensor], retain_graph: bool = False
) -> tuple[Tensor | None, ...]:
    """sum_i values_i^T d roots_i / d inputs, None where nothing is reached."""
    pairs = [(x, g) for x, g in zip(roots, values) if x.requires_grad]
    if not pairs or not inputs:
        return (None,) * len(inputs)
    roots, values = [x for x, _ in pairs], [g for _, g in pairs]
    return torch.autograd.grad(roots, inputs, values, retain_graph=retain_graph, allow_unused=True)


def time_derivatives(problem: SolveProblem, recording: Recording) -> tuple[Tensor, Tensor]:
    """The derivatives [N, T] of the steps' starts and of their sizes with respect to the output times: `timeline` is
    their transpose.
    """
    n, times = len(recording.records), problem.ts.detach()
    starts, sizes = times.new_zeros(n, len(times)), times.new_zeros(n, len(times))
    if isinstance(recording.integrator, AdaptiveIntegrator):
        ends = _ends(recording)
        starts[: min(ends, default=n - 1) + 1, 0] = 1
        if ends:
            sizes[min(ends), 0] -= 1
        if n and recording.records[-1].ends_at_output:
            sizes[-1, -1] += 1
        return starts, sizes
    with torch.enable_grad():
        ts, grid = _grid(problem, recording)
        u = torch.zeros_like(grid, requires_grad=True)
        (pulled,) = torch.autograd.grad(grid, ts, u, create_graph=True)
        columns = [torch.autograd.grad(x, u, retain_graph=True)[0] for x in pulled.unbind()]
    along = torch.stack(columns, 1)
    return along[:-1], along.diff(dim=0)


def _ends(recording: Recording) -> list[int]:
    """Indices of the steps that were cut to end at a given time."""
    n = len(recording.records)
    return [*recording.stops, *([n - 1] if n and recording.records[-1].ends_at_output else [])]


def _grid(problem: SolveProblem, recording: Recording) -> tuple[Tensor, Tensor]:
    """The output times as leaves, and the grid of a fixed-step solve as a function of them."""
    ts = problem.ts.detach().requires_grad_(True)
    again = problem.solver.start(recording.field, ts[0], problem.y.detach(), problem.direction)
    assert isinstance(again, FixedIntegrator)
    again.aim(ts[1:])
    return ts, again.grid[: len(recording.records) + 1]


def timeline(problem: SolveProblem, recording: Recording, gathered: Gathered) -> Tensor | None:
    """Gradients of the output times [T] from those of the steps' starts and sizes; None if not wanted."""
    if gathered.ts is None:
        return None
    result, n = gathered.ts, len(recording.records)
    zero = result.new_zeros(())
    starts = [gathered.starts.get(i, zero).to(result) for i in range(n)]
    sizes = [gathered.sizes.get(i, zero).to(result) for i in range(n)]
    if isinstance(recording.integrator, AdaptiveIntegrator):
        # sizes are constants but for those of steps cut to end at a given time; starts follow the first output time
        # up to the first such step
        ends = _ends(recording)
        first = min(ends, default=n - 1)
        if n:
            result[0] += torch.stack(starts[: first + 1]).sum()
        if ends:
            result[0] -= sizes[first]
        if n and recording.records[-1].ends_at_output:
            result[-1] += sizes[-1]
        return result
    with torch.enable_grad():
        ts, grid = _grid(problem, recording)
        (found,) = gradients([grid[:-1], grid.diff()], [ts], [torch.stack(starts), torch.stack(sizes)])
    return result if found is None else result + found


@contextlib.contextmanager
def undisturbed(problem: SolveProblem) -> Iterator[None]:
    """Afterwards the random number generators and the buffers of the field's modules are as before."""
    modules = [x for x in (problem.flat.func, *problem.flat.args) if isinstance(x, nn.Module)]
    owner = getattr(problem.flat.func, "__self__", None)
    modules += [owner] if isinstance(owner, nn.Module) else []
    buffers = [(b, b.clone()) for m in modules if m.training for b in m.buffers()]
    state = RandomState.capture(problem.y.device)
    try:
        yield
    finally:
        state.restore()
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)


def require_steps(problem: SolveProblem, name: str) -> None:
    """Raise InputError unless the solver takes one-step steps that can be run again."""
    solver = problem.solver
    if type(solver).__name__ not in ("Adaptive", "FixedStep"):
        raise InputError(
            f"gradient={name!r} runs the solver's steps again, which {type(solver).__name__} does not allow: use "
            "Adaptive or FixedStep, or gradient='adjoint'."
        )
    if isinstance(solver.method, str) and solver.method in WALKERS:  # type: ignore[union-attr]
        raise InputError(
            f"gradient={name!r} runs steps of one method again, and {solver.method} takes those of several: use "  # type: ignore[union-attr]
            "gradient='autograd' or 'interpolating_adjoint', or kvaerno5 or rodas5p."
        )


Pull = Callable[[Replay, int, State, State], State]
