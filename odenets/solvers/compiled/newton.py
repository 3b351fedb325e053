"""Diagonally implicit Runge-Kutta steps as pure tensor code: a bounded Newton iteration that is a loop of its own.

The equations, the first guesses, the norms and the rules by which the iteration stops or gives up are those of
`implicit.runge_kutta` and `implicit.newton`. The Jacobian and its factors are formed at every trial step and serve all its
stages; nothing is kept from one step to the next.

One loop goes through stages and iterations together: every clock has a stage of its own at which it works, so that none
waits for the slowest of another stage, and the field is compiled once, not once per stage and iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from ..implicit.runge_kutta import ImplicitRungeKutta, StageGuesses
from ..one_step import Accuracy, BoundMethod
from ..step import Field, StepSize, Trial, add_scaled, over_state, weighted_sum
from ..tableau import ButcherTableau, Row
from .linear import Factors, factorised, slopes


@dataclass(frozen=True)
class PureNewton:
    """A diagonally implicit method whose steps can be compiled into a loop; a `Method`.

    Args:
        tableau: with f at the step's start as its first stage, all others with the same diagonal element.
        control_order: as in `Method`.
        guesses: s rows; row i holds the weights of the stages before i in the first guess for k_i.
        max_iterations, kappa: as in `Nonlinear`.
        batch_dims: leading dimensions of the state that number separate systems.
    """

    tableau: ButcherTableau
    control_order: int
    guesses: tuple[Row, ...]
    max_iterations: int
    kappa: float | None
    batch_dims: int

    @classmethod
    def of(cls, method: ImplicitRungeKutta, batch_dims: int) -> PureNewton:
        guesses = tuple(tuple(float(x) for x in row) for row in StageGuesses(method).weights)
        settings = method.nonlinear
        return cls(method.extended, method.control_order, guesses, settings.max_iterations, settings.kappa, batch_dims)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tableau, name)

    def bind(self, field: Field, accuracy: Accuracy) -> BoundMethod:
        return BoundNewton(self, field, accuracy)


class BoundNewton(BoundMethod):
    iterates = True

    def __init__(self, method: PureNewton, field: Field, accuracy: Accuracy) -> None:
        self.method, self.tableau = method, method.tableau
        self.field, self.accuracy = field, accuracy
        self.gamma = self.tableau.a[-1][-1]
        self.known, self.guesses = before_stage(self.tableau.a), before_stage(method.guesses)

    def trial(
        self, times: Sequence[Tensor], h: StepSize, y: Tensor, derivative: Callable[[], Tensor], with_error: bool = True
    ) -> Trial:
        assert isinstance(h, Tensor)
        tableau, f0 = self.tableau, derivative()
        assert tableau.b_error is not None
        jacobian, _ = slopes(self.field, times[0], y, self.method.batch_dims, along_time=False)
        lu = factorised(jacobian, (h.reshape(-1) if h.dim() else h) * self.gamma)
        stages, failed, updates = self._solve(lu, times, h, y, f0)
        y1 = add_scaled(y, h, weighted_sum(tableau.b, stages))
        error = weighted_sum(tableau.b_error, stages)
        assert error is not None
        error = (error * h).masked_fill(over_state(failed, y), float("nan"))
        # NaN in the field is another cause, and shows in the error
        finite = torch.isfinite(f0)
        failed = failed & (finite.flatten(1).all(1) if self.accuracy.per_sample else finite.all())
        return Trial(y1, error, stages, failed, updates)

    def _solve(
        self, lu: Factors, times: Sequence[Tensor], h: Tensor, y: Tensor, f0: Tensor
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """The stages, where they were not found, and the number of updates."""
        count, limit, keep = self.tableau.stages, self.method.max_iterations, int(self.accuracy.per_sample)
        scale = (y.abs() * self.accuracy.rtol + self.accuracy.atol).reciprocal()
        kappa = self._kappa(y)
        epsilon = 32 * torch.finfo(y.dtype).eps
        shape = times[0].shape
        times = [time.clone() for time in times]  # a loop takes no views of one tensor
        standing = (h == 0).reshape(shape)  # clocks that have arrived or failed

        def working(stage: Tensor, failed: Tensor, *rest: Tensor) -> Tensor:
            return ((stage < count) & ~failed).any()

        def update(
            stage: Tensor, failed: Tensor, iteration: Tensor, updates: Tensor, eta: Tensor, previous: Tensor, k: Tensor,
            *found: Tensor,
        ) -> tuple[Tensor, ...]:  # fmt: skip
            active = (stage < count) & ~failed
            known = [f0, *found]
            base = add_scaled(y, h, _of_stage(self.known, stage, known))
            time = times[-1]
            for i in range(1, count - 1):
                time = torch.where(stage == i, times[i], time)
            residual = self.field(time, base + k * (h * self.gamma)) - k
            by_system = residual.reshape(*residual.shape[: self.method.batch_dims], -1)
            delta = lu.solve(by_system).reshape(residual.shape)
            moves = delta * (h * self.gamma)
            size = torch.as_tensor(self.accuracy.norm(moves * scale)).abs().to(torch.float64)

            later = iteration > 0
            rate = size / previous
            observed = rate / (1 - rate)
            hopeless = ~(rate < 1) | (rate ** (limit - 1 - iteration) * observed * size > kappa)
            largest = torch.maximum(base.abs(), (base + moves).abs())
            rounding = _largest(moves.abs(), keep) <= epsilon * _largest(largest, keep)
            bad = ~torch.isfinite(size) | (later & hopeless & ~rounding & (size > 0))
            observed = torch.where(rate < 1, observed.clamp(min=0), 0.0)
            eta = torch.where(later, observed, eta)
            good = active & ~bad & (eta * size <= kappa)
            bad = active & (bad | (~good & (iteration + 1 >= limit)))

            k = torch.where(over_state(active & ~bad, y), k + delta, k)
            found = tuple(torch.where(over_state(good & (stage == i), y), k, other) for i, other in enumerate(found, 1))
            stage = stage + good
            guess = _of_stage(self.guesses, stage, [f0, *found])
            k = torch.where(over_state(good, y), guess, k)
            eta = torch.where(good, _first(eta), eta)
            iteration = torch.where(good, 0, iteration + 1)
            return tuple(x.clone() for x in (stage, failed | bad, iteration, updates + 1, eta, size, k, *found))

        zeros = torch.zeros(shape, dtype=torch.int64, device=y.device)
        one = torch.ones(shape, dtype=torch.float64, device=y.device)
        start = (
            torch.where(standing, count, zeros + 1), torch.zeros_like(standing), zeros, zeros.new_zeros(()), one,
            one.clone(), f0.clone(), *[torch.zeros_like(y) for _ in range(count - 1)],
        )  # fmt: skip
        _, failed, _, updates, _, _, _, *found = while_loop(working, update, start)
        return [f0, *found], failed, updates

    def _kappa(self, y: Tensor) -> float | Tensor:
        """As `implicit.nonlinear.StageSolver.kappa`."""
        if self.method.kappa is not None:
            return self.method.kappa
        rtol, epsilon = torch.as_tensor(self.accuracy.rtol).min().to(torch.float64), torch.finfo(y.dtype).eps
        return torch.maximum(10 * epsilon / rtol.clamp(min=epsilon), rtol.sqrt().clamp(max=0.03))


def before_stage(rows: Sequence[Row]) -> Tensor:
    """The weights of the stages before each [s + 1, s]; none once there is no stage left."""
    count = len(rows)
    table = [[*row[:i], *([0.0] * (count - min(i, len(row))))] for i, row in enumerate(rows)]
    return torch.tensor([*table, [0.0] * count], dtype=torch.float64)


def _of_stage(weights: Tensor, stage: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """sum_j w_ij x_j with i the stage of each clock."""
    of_clock = weights.index_select(0, stage.reshape(-1)).reshape(*stage.shape, len(tensors)).to(tensors[0].dtype)
    total = torch.zeros_like(tensors[0])
    for weight, tensor in zip(of_clock.unbind(-1), tensors):
        total = total + over_state(weight, tensor) * tensor
    return total


def _largest(x: Tensor, keep: int) -> Tensor:
    return x.flatten(keep).amax(-1)


def _first(eta: Tensor) -> Tensor:
    """What is expected of the next stage's first update (HW II, section IV.8)."""
    return eta.clamp(min=1e-16) ** 0.8
