"""Integration on a fixed grid of times.

What can be done once is done once: step sizes and the stages' times of many steps are computed together, and nothing
is read back from the device while stepping.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .adaptive import next_after
from .errors import InputError, Status
from .integrator import Callbacks, Integrator, Step
from .one_step import Accuracy, Method, bind
from .step import Field, StepSize, carries_derivative

GridConstructor = Callable[[Field, Tensor, Tensor], Tensor]
_BLOCK = 512  # steps whose times are computed together


class FixedIntegrator(Integrator):
    """Walks along a grid with a Runge-Kutta method, whether or not it has an error estimate.

    Args:
        field: f(t, y) on flat states.
        method: a one-step method.
        t0, y0, direction: start.
        step_size: distance of the grid points, the last step being what is left: ceil((t1 - t0) / step_size + 1)
            points.
        steps: number of equal steps to the last time of the first `aim`; excludes step_size.
        grid_constructor: (field, y0, ts) -> grid from ts[0] to ts[-1]; excludes the other two. Without any of the
            three the output times are the grid.
        interpolation: "linear", "cubic" (Hermite) or "dense" (the method's own).
        perturb: evaluate f just inside each step, for fields that jump at grid points.
        callbacks: only `step` is called.
        accuracy: for iterations inside an implicit step.
    """

    def __init__(
        self,
        field: Field,
        method: Method,
        t0: Tensor,
        y0: Tensor,
        direction: float,
        *,
        step_size: float | Tensor | None = None,
        steps: int | None = None,
        grid_constructor: GridConstructor | None = None,
        interpolation: str = "dense",
        perturb: bool = False,
        callbacks: Callbacks | None = None,
        accuracy: Accuracy | None = None,
    ) -> None:
        super().__init__(t0, y0, direction)
        self.field = field
        self.method = method
        self.bound = bind(method, field, accuracy or Accuracy())
        self.step_size, self.steps, self.grid_constructor = step_size, steps, grid_constructor
        self.coefficients = getattr(method, {"cubic": "hermite"}.get(interpolation, interpolation))
        self.perturb = perturb
        self.callbacks = callbacks or Callbacks()
        self.time_dtype = torch.empty((), dtype=y0.dtype).abs().dtype
        self.nodes = torch.tensor(method.c, dtype=t0.dtype, device=t0.device)
        self.f: Tensor | None = None
        self.endless = False
        self._grid_is_ts = False

    # The grid

    def aim(self, ts: Tensor | None, end: float | None = None) -> None:
        if ts is None:
            if self.step_size is None:
                raise InputError("a fixed-step solve without an end needs `step_size`.")
            self.endless = True
            self._lay(self._run_on())
            return
        self.endless = False
        self._grid_is_ts = False
        self._lay(self._grid_to(ts))

    def _run_on(self) -> Tensor:
        count = torch.arange(_BLOCK + 1, dtype=self.t.dtype, device=self.t.device)
        return self.t + count * (self.direction * abs(float(self.step_size)))  # type: ignore[arg-type]

    def _grid_to(self, ts: Tensor) -> Tensor:
        start, end = self.t, ts[-1].to(self.t.dtype)
        if self.grid_constructor is not None:
            ts = torch.cat([self.t.reshape(1), ts.to(self.t.dtype)])
            grid = self.grid_constructor(self.field, self.y, ts).to(self.t)
            if grid[0] != ts[0] or grid[-1] != ts[-1]:
                raise InputError(
                    f"grid_constructor must return a grid from {float(ts[0])} to {float(ts[-1])}, "
                    f"got one from {float(grid[0])} to {float(grid[-1])}."
                )
            return grid
        if self.step_size is not None:
            size = abs(float(self.step_size))
            count = max(2, math.ceil(abs(float(end.detach()) - self.now) / size + 1))
            points = start + torch.arange(count - 1, dtype=start.dtype, device=start.device) * (self.direction * size)
            return torch.cat([points, end.reshape(1)])
        if self.steps is not None:
            n = torch.arange(self.steps, dtype=start.dtype, device=start.device)
            # in this form simple fractions of the interval come out right to the last bit
            return torch.cat([(start * (self.steps - n) + end * n) / self.steps, end.reshape(1)])
        self._grid_is_ts = True
        return torch.cat([start.reshape(1), ts.to(start.dtype)])

    def _lay(self, grid: Tensor) -> None:
        self.grid = grid
        self.points: list[float] = grid.tolist()
        self.next = 0
        self._block_start = -1

    def _block(self, n: int) -> None:
        """Times and sizes of the steps from n on: sizes as floats, or as tensors where gradients flow through them."""
        self._block_start = n
        grid = self.grid[n : n + _BLOCK + 1]
        sizes = grid[1:] - grid[:-1]
        times = grid[:-1, None] + sizes[:, None] * self.nodes
        columns = list(times.unbind(1))
        for i, c in enumerate(self.method.c):
            if c == 1:
                columns[i] = grid[1:]
            if self.perturb and c in (0, 1):
                edge = columns[i].to(self.time_dtype)
                columns[i] = next_after(edge, self.direction if c == 0 else -self.direction)
        self._times = torch.stack(columns, 1).to(self.time_dtype).reshape(-1).unbind()
        self._starts = self.grid[n : n + _BLOCK].unbind()
        if carries_derivative(grid):
            self._sizes: list[StepSize] = list(sizes.unbind())
        else:
            points = self.points[n : n + _BLOCK + 1]
            self._sizes = [b - a for a, b in itertools.pairwise(points)]

    # Stepping

    def step(self) -> Step | None:
        if self.next == len(self.points) - 1:
            if not self.endless:
                return None
            self._lay(self._run_on())
        n = self.next
        if self._block_start < 0 or n - self._block_start >= _BLOCK:
            self._block(n)
        i, s = n - self._block_start, len(self.method.c)
        t0, h, times = self._starts[i], self._sizes[i], self._times[i * s : (i + 1) * s]
        if self.callbacks.step is not None:
            size = abs(self.points[n + 1] - self.points[n])
            self.callbacks.step(t0, self.y, t0.new_tensor(size))
        y0 = self.y
        advanced = self._advance(times, h, n)
        if advanced is None:
            return None
        y1, stages, coefficients = advanced
        self.y, self.next = y1, n + 1
        self.t, self.now = self.grid[n + 1], self.points[n + 1]
        self.accepted += 1
        exact = isinstance(h, Tensor) and (self._grid_is_ts or n + 2 == len(self.points))
        step = Step(t0, self.points[n], self.now, h, y0, y1, stages, coefficients, self._derivative, exact)
        return self.bound.dense_output(step)

    def _advance(self, times: tuple[Tensor, ...], h: StepSize, n: int):
        """New state, stages and interpolation coefficients of the n-th step; None where it failed."""

        def derivative() -> Tensor:
            return self._first_derivative(times[0] if self.method.c[0] == 0 else self._start_time(n))

        trial = self.bound.trial(times, h, self.y, derivative, with_error=False)
        if trial.failed:
            where = f"from t = {self.now:.6g} to {self.points[n + 1]:.6g}"
            self.fail(Status.NONLINEAR, f"the step {where} could not be computed: {self.bound.cause}.")
            return None
        self.bound.accepted()
        if self.perturb:
            self.bound.jumped()  # the next step sees the field from the other side
        self.f = trial.stages[-1] if self.method.fsal and not self.perturb else None
        return trial.y1, trial.stages, self.coefficients

    def _start_time(self, n: int) -> Tensor:
        time = self.grid[n].to(self.time_dtype)
        return next_after(time, self.direction) if self.perturb else time

    def _first_derivative(self, time: Tensor) -> Tensor:
        return self.field(time, self.y) if self.f is None else self.f

    def _derivative(self) -> Tensor:
        """f at the state just reached, kept for the next step unless f is perturbed at the grid points."""
        if self.f is None:
            f = self.field(self.t.to(self.time_dtype), self.y)
            if self.perturb:
                return f
            self.f = f
        return self.f

    def jump(self, y: Tensor) -> None:
        self.y, self.f = y, None
        self.bound.jumped()

    def restart(self, t: Tensor, y: Tensor, slope: Tensor) -> None:
        """To the next grid point and on along the grid."""
        grid_is_ts, ahead, last = self._grid_is_ts, self.next, len(self.points) - 1
        now, end = float(t.detach()), self.points[self.next]
        if now == end or (ahead < last and abs(end - now) < 1e-6 * abs(end - self.points[ahead - 1])):
            ahead += 1  # no tiny step: multistep methods lose their digits over it
        super().restart(t, y, slope)
        self._lay(torch.cat([t.reshape(1), self.grid[ahead:]]))
        self.f, self._grid_is_ts = None if self.perturb else slope, grid_is_ts
