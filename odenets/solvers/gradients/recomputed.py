"""What the methods that run steps again have in common: one autograd node for the whole solve."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..once import differentiable_once
from ..solution import Solution, Stats
from .autograd import Autograd
from .base import Gradient, SolveProblem, judged, pad_with_nan, stats_of
from .record import Recording, State, record
from .replay import Gathered, Replay, require_steps, timeline, undisturbed


class Sweep:
    """One backward sweep over a recording's steps, last step first. Subclasses choose what the forward run keeps.

    Attributes:
        from_the_end: whether the sweep starts from the last state, with the method's memory.
    """

    from_the_end = False

    def keep(self, n: int, state: State) -> None:
        """The n-th step starts from `state`. Called during the forward solve."""

    def started(self, problem: SolveProblem) -> None:
        """Called before the forward solve."""

    @abstractmethod
    def run(self, replay: Replay, grads: State) -> State:
        """Gradients of the first state from those of the last, through every step."""


class Recomputed(Gradient):
    """A method that runs the recorded steps again in the backward pass."""

    def check(self, problem: SolveProblem) -> None:
        super().check(problem)
        require_steps(problem, self.name)

    @abstractmethod
    def sweep(self) -> Sweep:
        """A fresh sweep for one solve."""

    def solve(self, problem: SolveProblem) -> Solution:
        params = problem.parameters(self.name)
        if not torch.is_grad_enabled() or not any(x.requires_grad for x in (problem.ts, problem.y, *params)):
            return Autograd().solve(problem)
        run = _Run(problem, self.sweep())
        ys = _Solve.apply(run, problem.ts, problem.y, *params)
        recording = run.recording
        assert recording is not None
        run.stats = stats_of(recording.field, recording.integrator)
        integrator = recording.integrator
        return judged(Solution(problem.ts, ys, run.stats, integrator.status, integrator.message), integrator)


class _Run:
    """A solve between its forward and its backward pass."""

    def __init__(self, problem: SolveProblem, sweep: Sweep) -> None:
        self.problem, self.sweep = problem, sweep
        self.recording: Recording | None = None
        self.stats = Stats()

    def forward(self) -> Tensor:
        self.sweep.started(self.problem)
        self.recording = record(self.problem, self.sweep.keep)
        if not self.sweep.from_the_end:
            self.recording.forget_the_end()
        ys, self.recording.ys = self.recording.ys, self.recording.ys.new_empty(0)
        return pad_with_nan(ys, len(self.problem.ts))

    def backward(self, params: tuple[Tensor, ...], times_wanted: bool, grad_ys: Tensor) -> Any:
        recording = self.recording
        assert recording is not None
        gathered = Gathered(params, self.problem.ts, times_wanted)
        replay = Replay(self.problem, recording, gathered, grad_ys)
        calls = recording.field.nfe
        try:
            with undisturbed(self.problem):
                grads = self.sweep.run(replay, tuple(torch.zeros_like(x) for x in recording.last))
                grad_ts = timeline(self.problem, recording, gathered)
        finally:
            recording.bound.jumped()  # what the last step left behind may hold a graph
        self.stats.nfe_backward = recording.field.nfe - calls
        # only y: the method's memory starts from y itself
        return grad_ts, grads[0] + grad_ys[0], gathered.finished()


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run: _Run, ts: Tensor, y: Tensor, *params: Tensor) -> Tensor:
        ctx.run = run
        device = y.device.type
        ctx.precision = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        ctx.save_for_backward(ts, y, *params)  # for autograd to notice changes in place
        return run.forward()

    @staticmethod
    @differentiable_once
    def backward(ctx, grad_ys: Tensor) -> Any:
        params = tuple(ctx.saved_tensors[2:])
        device, dtype, enabled = ctx.precision
        with torch.autocast(device, dtype=dtype, enabled=enabled):
            grad_ts, grad_y, grad_params = ctx.run.backward(params, ctx.needs_input_grad[1], grad_ys)
        return None, grad_ts, grad_y, *grad_params
