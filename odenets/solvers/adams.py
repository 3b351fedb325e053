"""Adams methods on a fixed grid: explicit (Adams-Bashforth) and implicit (Adams-Bashforth-Moulton).

The weights come from the grid's own times, by integrating the interpolating polynomial of the past derivatives
(HNW section III.5, variable step size), so that an uneven grid, such as one whose last step is shorter, keeps the
order. The first steps are Runge-Kutta steps of order 4; the order of the formula then grows with the history.
"""

from __future__ import annotations

import warnings
from collections import deque

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .fixed import FixedIntegrator
from .methods.rk4 import RK4_38
from .step import StepSize, add_scaled, error_ratio, runge_kutta_step, weighted_sum

_LOWEST = 4
HIGHEST_ORDER = 12
# explicit formulas of high order are hardly stable: at order 12 even h * lambda = 0.01 blows up
DEFAULT_ORDER = {"explicit_adams": 5, "implicit_adams": 12}


def adams_weights(nodes: Tensor) -> Tensor:
    """integral over [0, 1] of each Lagrange polynomial on `nodes` [p] -> [p].

    The nodes are times measured from the step's start in units of its size: (0, -1, -2, ...) on an even grid for an
    explicit formula, (1, 0, -1, ...) for an implicit one. Gauss-Legendre quadrature makes it exact to rounding.
    """
    points, weights = (torch.from_numpy(x).to(nodes) for x in np.polynomial.legendre.leggauss(len(nodes) // 2 + 1))
    points, weights = (points + 1) / 2, weights / 2
    eye = torch.eye(len(nodes), dtype=torch.bool, device=nodes.device)
    gaps = torch.where(eye, torch.ones_like(nodes), nodes[:, None] - nodes)  # [p, p]: x_j - x_i
    factors = torch.where(eye, torch.ones_like(nodes), points[:, None, None] - nodes)  # [q, p, p]: s - x_i
    return weights @ (factors / gaps).prod(dim=-1)


class AdamsIntegrator(FixedIntegrator):
    """An Adams method of order up to `max_order` in the number of derivatives kept.

    Args:
        max_order: order reached once there is enough history, 1 to 12; below 4 only the Runge-Kutta start is used.
        implicit: correct the prediction by the implicit formula, iterating at most `max_iters` times until the change
            is below rtol, atol; warns where it does not get there.

    The other arguments are those of `FixedIntegrator`. Dense output is cubic Hermite.
    """

    def __init__(
        self,
        *args,
        max_order: int = HIGHEST_ORDER,
        implicit: bool = False,
        max_iters: int = 4,
        rtol: float | Tensor = 1e-3,
        atol: float | Tensor = 1e-4,
        **kwargs,
    ) -> None:
        interpolation = kwargs.pop("interpolation", "dense")
        super().__init__(*args, interpolation="cubic", **kwargs)
        if not 1 <= max_order <= HIGHEST_ORDER:
            raise InputError(f"max_order must be at most {HIGHEST_ORDER} and at least 1, got {max_order}.")
        if max_order < _LOWEST:
            warnings.warn(f"max_order is below {_LOWEST}, so the solver reduces to `rk4`.", UserWarning, stacklevel=2)
        # stages are (y1 - y0) / h, f0, f1: Hermite in the first, and the straight line uses it alone
        self.coefficients = np.array([[1.0]]) if interpolation == "linear" else _HERMITE
        self.max_order, self.implicit, self.max_iters = max_order, implicit, max_iters
        self.rtol, self.atol = rtol, atol
        self.past_f: deque[Tensor] = deque(maxlen=max_order)
        self.past_t: deque[int] = deque(maxlen=max_order)
        self._cache: dict[tuple[float, ...], list[float]] = {}

    def _lay(self, grid: Tensor) -> None:
        super()._lay(grid)
        self._forget()  # the history's times are indices into the grid

    def jump(self, y: Tensor) -> None:
        super().jump(y)
        self._forget()

    def _forget(self) -> None:
        self.past_f.clear()
        self.past_t.clear()

    def _advance(self, times: tuple[Tensor, ...], h: StepSize, n: int):
        f0 = self._first_derivative(times[0])
        self.f = None
        self.past_f.appendleft(f0)
        self.past_t.appendleft(n)
        if self.max_order < _LOWEST or len(self.past_f) < _LOWEST:
            y1 = runge_kutta_step(self.field, RK4_38, times, h, self.y, f0, with_error=False).y1
        else:
            y1 = self._predict(h, n)
            if self.implicit:
                y1 = self._correct(y1, times[-1], h, n)
        slope = (y1 - self.y) / (h.to(y1.dtype) if isinstance(h, Tensor) else h)
        return y1, [slope] if len(self.coefficients) == 1 else [slope, f0], self.coefficients

    def _predict(self, h: StepSize, n: int) -> Tensor:
        return add_scaled(self.y, h, self._weighted(list(self.past_t), list(self.past_f), h, n))

    def _correct(self, y1: Tensor, end: Tensor, h: StepSize, n: int) -> Tensor:
        past = list(self.past_t)[: self.max_order - 1]
        f_past = list(self.past_f)[: self.max_order - 1]
        for _ in range(self.max_iters):
            f1 = self.field(end, y1)
            corrected = add_scaled(self.y, h, self._weighted([n + 1, *past], [f1, *f_past], h, n))
            with torch.no_grad():
                change = corrected - y1
                scaled = error_ratio(change, y1 - self.y, corrected - self.y, self.rtol, self.atol).abs()
                done = scaled.numel() == 0 or float(scaled.max()) < 1
            y1 = corrected
            if done:
                return y1
        warnings.warn("Functional iteration did not converge. Solution may be incorrect.", UserWarning, stacklevel=2)
        return y1

    def _weighted(self, indices: list[int], derivatives: list[Tensor], h: StepSize, n: int) -> Tensor:
        """sum_i w_i f_i with the weights that integrate the polynomial through the f_i over the n-th step."""
        if isinstance(h, Tensor):
            weights = adams_weights((self.grid[indices] - self.grid[n]) / h)
            return torch.tensordot(weights.to(derivatives[0].dtype), torch.stack(derivatives), dims=1)
        start = self.points[n]
        # rounded, so that an even grid computes its weights once
        nodes = tuple(round((self.points[i] - start) / h, 12) for i in indices)
        if nodes not in self._cache:
            self._cache[nodes] = adams_weights(torch.tensor(nodes, dtype=torch.float64)).tolist()
        total = weighted_sum(self._cache[nodes], derivatives)
        assert total is not None
        return total


_HERMITE = np.array([[0.0, 3.0, -2.0], [1.0, -2.0, 1.0], [0.0, -1.0, 1.0]])
