"""Backward differentiation formulas of order 1 to 5, in their numerical form (NDF) with quasi-constant steps.

L. F. Shampine and M. W. Reichelt, "The MATLAB ODE suite", SIAM J. Sci. Comput. 18 (1997), section 2. The history is
kept as backward differences D_j = nabla^j y on a grid of the present step size; when the size changes they are
interpolated to the new grid. With gamma_k = sum_{j<=k} 1/j, the new state of order k is the solution of

    Y = base + c f(t + h, Y),     c = h / ((1 - kappa_k) gamma_k),
    base = sum_{j=0..k} D_j - sum_{j=1..k} gamma_j D_j / ((1 - kappa_k) gamma_k)

and the error estimate a multiple of Y minus its prediction sum_j D_j. The formulas are linear in the history and Y is
differentiated by the implicit function theorem, so that gradients are those of the steps taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..adaptive import AdaptiveIntegrator, next_after
from ..errors import Status
from ..integrator import Step
from ..one_step import Accuracy
from ..step import Field, StepSize, error_ratio, stage_times, weighted_sum
from .complex_states import RealField, over_reals
from .gradient import attached
from .newton import Newton, NewtonSolver
from .stages import StageEquations

MAX_ORDER = 5
_KAPPA = np.array([0.0, -0.1850, -1 / 9, -0.0823, -0.0415, 0.0])
_GAMMA = np.array([0.0, *np.cumsum(1 / np.arange(1, MAX_ORDER + 1))])
_ALPHA = (1 - _KAPPA) * _GAMMA
# of Y minus its prediction, which is about nabla^(k+1) y; the one beyond the highest order is never chosen
_ERROR = np.array([*(_KAPPA * _GAMMA + 1 / np.arange(1, MAX_ORDER + 2)), 1 / (MAX_ORDER + 2)])
_ONE = np.ones((1, 1))
_WORTH_IT = 1.2  # a smaller gain in step size does not pay for new factors


@dataclass(frozen=True)
class BDF:
    """What `AdaptiveIntegrator` asks of a method, for the first step."""

    name: str = "bdf"
    order: int = MAX_ORDER
    control_order: int = 2
    c: tuple[float, ...] = (0.0, 1.0)
    fsal: bool = False
    adaptive: bool = True

    def bind(self, field: Field, accuracy: Accuracy):
        return Newton(max_iterations=4).bind(field, accuracy, _ONE)


class BDFIntegrator(AdaptiveIntegrator):
    """Walks with NDFs of variable order and one step size for the whole batch; the arguments of `AdaptiveIntegrator`.

    Of the controller, the safety factor and the bounds are used. Dense output is the formula's own polynomial.
    """

    bound: NewtonSolver  # type: ignore[assignment]

    def __init__(self, field: Field, t0: Tensor, y0: Tensor, direction: float, **settings) -> None:
        super().__init__(field, BDF(), t0, y0, direction, **settings)  # type: ignore[arg-type]
        self.complex = y0.is_complex()
        self.stage_field: Field = RealField(field) if self.complex else field
        if self.complex:
            self.bound = BDF().bind(self.stage_field, over_reals(Accuracy(self.rtol, self.atol, self.norm)))
        self._forget()

    def _forget(self) -> None:
        self.order = 1
        self.steady = 0  # steps since the size or the order changed
        self.differences: list[Tensor] = []  # D_0 ... D_{order + 2}
        self.grid: StepSize = 0.0  # signed step size of their grid

    def jump(self, y: Tensor) -> None:
        super().jump(y)
        self._forget()

    def restart(self, t: Tensor, y: Tensor, slope: Tensor) -> None:
        super().restart(t, y, slope)
        self._forget()

    def step(self) -> Step | None:
        assert self.size is not None
        nonfinite, refusals, unsolved = False, 0, False
        while self.status is Status.SUCCESS:
            if self.attempts >= self.max_steps:
                self._fail_at_limit()
                return None
            wanted = min(max(self.size, self.min_step), self.max_step)
            h, size, end, stop = self._clipped(wanted)
            # after a step that could not be computed: sooner than at the last bit, where rounding lets some succeed
            too_small = 100 * math.ulp(self.now) if nonfinite else 0.0
            if end == self.now or size <= too_small:
                self._fail_too_small(size, nonfinite, unsolved)
                return None
            if self.callbacks.step is not None:
                self.callbacks.step(self.t, self.y, self.t.new_tensor(size))
            self.attempts += 1
            before = self.bound.work.iterations
            change, ratio, unsolved = self._try(h, stop)
            accept = ratio <= 1 or (size <= self.min_step and ratio < math.inf)
            callback = self.callbacks.accept if accept else self.callbacks.reject
            if callback is not None:
                callback(self.t, self.y, self.t.new_tensor(size))
            # many iterations make a step expensive: aim a little lower (as in the code of Shampine and Reichelt's suite)
            safety = self.controller.safety * 9 / (8 + self.bound.work.iterations - before)
            if accept:
                step = self._take(change, h, end, stop)
                self.size = self._next_size(ratio, safety, wanted) if size == wanted else wanted
                return step
            nonfinite = not ratio < math.inf
            if nonfinite and (size <= self.min_step or self._hopeless(refusals := refusals + 1)):
                self._fail_too_small(size, nonfinite, unsolved)
                return None
            factor = 0.5 if nonfinite else max(self.controller.factor_min, safety * ratio ** (-1 / (self.order + 1)))
            self.size = size * factor
            self.rejected += 1
        return None

    def _try(self, h: StepSize, stop) -> tuple[Tensor, float, bool]:
        """One trial: the new state minus its prediction, the ratio of its error, and whether it was not found."""
        self._regrid(h)
        k, past = self.order, self.differences
        c = h / float(_ALPHA[k])
        prediction = torch.stack(past[: k + 1]).sum(0)
        drift = weighted_sum((_GAMMA[1 : k + 1] / _ALPHA[k]).tolist(), past[1 : k + 1])
        assert drift is not None
        time = stage_times(self.nodes, self.t, h, self.time_dtype)[1]
        if stop is not None:
            time = stop.tensor.to(self.time_dtype)
            time = next_after(time, -self.direction) if stop.is_jump else time
        real = torch.view_as_real if self.complex else lambda x: x
        equations = StageEquations(self.stage_field, [time], c, real(prediction - drift), _ONE)
        with torch.no_grad():
            resting = StageEquations(
                self.stage_field,
                [time.detach()],
                float(c.detach() if isinstance(c, Tensor) else c),
                equations.base.detach(),
                _ONE,
            )
            self.bound.slow = False  # a new Jacobian only where the iteration fails with the old one
            self.bound.begin(resting.times[0], real(prediction.detach()), resting.h)
            slope, failed = self.bound.solve(resting, real((drift / c).detach())[None])
        if failed.any():
            self.bound.jumped()  # the Jacobian was taken at a prediction that led nowhere
            return drift, math.inf, True
        slope = attached(equations, slope, self.bound)[0]
        slope = torch.view_as_complex(slope.contiguous()) if self.complex else slope
        change = slope * (c.to(slope.dtype) if isinstance(c, Tensor) else c) - drift
        with torch.no_grad():
            error = error_ratio(change * float(_ERROR[k]), self.y, prediction + change, self.rtol, self.atol)
            return change, abs(float(self.norm(error))), False

    def _regrid(self, h: StepSize) -> None:
        """Bring the history to the grid of step size h."""
        if not self.differences:
            slope = self._derivative()
            nothing = torch.zeros_like(self.y)
            size = h.to(slope.dtype) if isinstance(h, Tensor) else h
            self.differences = [self.y, slope * size, nothing, nothing]
        elif isinstance(h, Tensor) or isinstance(self.grid, Tensor) or h != self.grid:
            known = regridded(self.differences[: self.order + 1], h / self.grid)
            self.differences = [*known, *self.differences[self.order + 1 :]]
            self.steady = 0
        self.grid = h

    def _take(self, change: Tensor, h: StepSize, end: float, stop) -> Step:
        k = self.order
        past = [*self.differences[: k + 1], change, change - self.differences[k + 1]]
        for j in reversed(range(k + 1)):
            past[j] = past[j] + past[j + 1]
        t0, start, y0 = self.t, self.now, self.y
        self.t = t0 + h if stop is None else stop.tensor
        self.now, self.y, self.f = end, past[0], None
        self.differences = past
        self.steady += 1
        self.after_jump = stop is not None and stop.is_jump
        self.stops.passed(end)
        self.bound.accepted()
        self.accepted += 1
        size = h.to(y0.dtype) if isinstance(h, Tensor) else h
        step = Step(
            t0, start, end, h, y0, self.y, [d / size for d in past[1 : k + 1]], polynomial(k), None,
            ends_at_output=isinstance(h, Tensor) and stop is not None and stop.is_limit,
        )  # fmt: skip
        if self.after_jump:
            self._forget()
        return step

    def _next_size(self, ratio: float, safety: float, size: float) -> float:
        """The order whose next step may be longest, and that size, once the history is even for long enough."""
        k = self.order
        if self.steady <= k:
            return size
        orders = [order for order in (k - 1, k, k + 1) if 1 <= order <= MAX_ORDER]
        factors = []
        with torch.no_grad():
            for order in orders:
                estimate = ratio
                if order != k:
                    error = self.differences[order + 1] * float(_ERROR[order])
                    estimate = abs(float(self.norm(error_ratio(error, self.y, self.y, self.rtol, self.atol))))
                factors.append(max(estimate, 1e-10) ** (-1 / (order + 1)))
        best = int(np.argmax(factors))
        factor = min(self.controller.factor_max, safety * factors[best])
        if orders[best] != k:
            self.order, self.steady = orders[best], 0
            self.differences = [*self.differences, torch.zeros_like(self.y)][: self.order + 3]
        return size * factor if factor >= _WORTH_IT or factor < 1 else size


def regridded(differences: list[Tensor], ratio: float | Tensor) -> list[Tensor]:
    """Differences D_0 ... D_k of the same polynomial on a grid `ratio` times as wide.

    Shampine and Reichelt, section 2.2: D^T R(ratio) R(1), R_ij(r) = prod_{m<=i} (m - 1 - r j) / m.
    """
    k = len(differences) - 1
    ratio = torch.as_tensor(ratio, dtype=torch.float64)
    i, j = torch.arange(1, k + 1, dtype=torch.float64)[:, None], torch.arange(1, k + 1, dtype=torch.float64)
    even = _even_grid(k)
    weights = torch.cumprod((i - 1 - ratio * j) / i, dim=0) @ even  # [k, k]
    new = torch.tensordot(weights.T.to(differences[0]), torch.stack(differences[1:]), dims=1)
    return [differences[0], *new.unbind()]


@cache
def _even_grid(k: int) -> Tensor:
    i, j = np.arange(1, k + 1)[:, None], np.arange(1, k + 1)
    return torch.from_numpy(np.cumprod((i - 1 - j) / i, axis=0))


@cache
def polynomial(k: int) -> np.ndarray:
    """Coefficients of the polynomial through the last k + 1 points as a `Step` takes them, over D_1 / h ... D_k / h:

    y(theta) = y0 + D_1 + sum_j D_j prod_{m<j} (theta - 1 + m) / (m + 1), theta = 0 at the start of the last step.
    """
    rows = np.zeros((k, k))
    basis = np.polynomial.Polynomial([1.0])
    for j in range(k):
        basis = basis * np.polynomial.Polynomial([j - 1.0, 1.0]) / (j + 1)
        rows[j, : j + 1] = basis.coef[1:]  # the constant is -1 for D_1, which the leading D_1 cancels, else 0
    return rows
