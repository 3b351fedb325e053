"""Implicit Runge-Kutta methods in the integrators: diagonally implicit ones stage by stage, others all stages at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..one_step import Accuracy, BoundMethod
from ..step import Field, StepSize, Trial, add_scaled, weighted_sum
from ..tableau import ButcherTableau
from .collocation import lagrange
from .complex_states import RealField, over_reals
from .gradient import attached
from .integrals import ImplicitWithIntegrals
from .newton import Newton
from .nonlinear import Nonlinear, Work
from .stages import StageEquations


@dataclass(frozen=True)
class ImplicitRungeKutta:
    """An implicit tableau with the way its equations are solved; a `Method`.

    The first of its stages is f at the step's start, whether or not the tableau has it: dense output, error estimates
    and the first guess use it, and where the last node is the end of the step it is known from the step before.

    Args:
        tableau: the method.
        nonlinear: how its equations are solved.
        error_weights: of f(t, y) and of the stages, for methods whose estimate is not the tableau's.
        error_filter: the estimate is multiplied by (I - h error_filter J)^{-1}; 0 leaves it alone.
        control_order: as in `Method`; the tableau's if 0.
    """

    tableau: ButcherTableau
    nonlinear: Nonlinear = field(default_factory=Newton)
    error_weights: tuple[float, ...] | None = None
    error_filter: float = 0.0
    error_order: int = 0

    @cached_property
    def extended(self) -> ButcherTableau:
        """The tableau with f(t, y) in front, of weight zero where it is not a stage anyway."""
        t = self.tableau
        if t.c[0] == 0.0 and not any(t.a[0]):
            return t
        interpolant = None if t.interpolant is None else ((0.0,) * len(t.interpolant[0]), *t.interpolant)
        rows = tuple((0.0, *row) for row in t.a)
        return ButcherTableau(
            t.name, t.order, ((), *rows), (0.0, *t.b), (0.0, *t.c), self.error_weights, interpolant=interpolant
        )

    @property
    def name(self) -> str:
        return self.tableau.name

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def control_order(self) -> int:
        return self.error_order or self.order

    @property
    def c(self) -> tuple[float, ...]:
        return self.extended.c

    @property
    def fsal(self) -> bool:
        return self.extended.fsal

    @property
    def adaptive(self) -> bool:
        return self.extended.adaptive

    @property
    def dense(self) -> np.ndarray:
        return self.extended.dense

    @property
    def hermite(self) -> np.ndarray:
        return self.extended.hermite

    @property
    def linear(self) -> np.ndarray:
        return self.extended.linear

    @cached_property
    def blocks(self) -> list[slice]:
        """The stages that are solved together."""
        a = self.extended.matrix
        s = len(a)
        diagonal = np.allclose(np.triu(a, 1), 0) and np.ptp(np.diag(a)[1:]) < 1e-14
        return [slice(i, i + 1) for i in range(1, s)] if diagonal else [slice(1, s)]

    @cached_property
    def block_matrix(self) -> np.ndarray:
        block = self.blocks[-1]
        return self.extended.matrix[block, block]

    @property
    def takes_mass(self) -> bool:
        """Whether it solves M y' = f: all of state, estimate and dense output must do without f(t, y) as a slope."""
        stiffly_accurate = self.tableau.b == self.tableau.a[-1]
        return stiffly_accurate and self.tableau.interpolant is not None and self.extended is not self.tableau

    def bind(self, field: Field, accuracy: Accuracy) -> BoundMethod:
        core = getattr(field, "core", None)
        return (
            BoundImplicit(self, field, accuracy) if core is None else ImplicitWithIntegrals(self, field, core, accuracy)
        )


class BoundImplicit(BoundMethod):
    """An implicit method on a field: keeps Jacobian, factors and the last step's stages."""

    def __init__(self, method: ImplicitRungeKutta, field: Field, accuracy: Accuracy) -> None:
        self.method, self.field, self.accuracy = method, field, accuracy
        self.mass: Tensor | None = getattr(field, "mass", None)
        self.solver = method.nonlinear.bind(field, accuracy, method.block_matrix)
        self.guesses = StageGuesses(method)
        self.over_reals: BoundImplicit | None = None
        self.pending: Tensor | None = None
        self.begun = False

    @property
    def work(self) -> Work:
        return self.solver.work if self.over_reals is None else self.over_reals.work

    @property
    def cause(self) -> str:  # type: ignore[override]
        return self.solver.cause if self.over_reals is None else self.over_reals.cause

    def trial(
        self, times: Sequence[Tensor], h: StepSize, y: Tensor, derivative: Callable[[], Tensor], with_error: bool = True
    ) -> Trial:
        if y.is_complex():
            return self._complex_trial(times, h, y, derivative, with_error)
        tableau = self.method.extended
        # with a mass matrix the last stage of the step before is y' and not f
        stages = [derivative() if self.mass is None else self.field(times[0], y)]
        step = h.detach() if isinstance(h, Tensor) and h.dim() else float(h.detach() if isinstance(h, Tensor) else h)
        self.solver.begin(times[0].detach(), y.detach(), step)
        self.begun = True
        self.guesses.begin(stages[0].detach(), step)
        failed = np.zeros((len(y),) if self.accuracy.per_sample else (), bool)
        for block in self.method.blocks:
            row = tableau.a[block.start][: block.start]
            base = add_scaled(y, h, weighted_sum(row, stages))
            equations = StageEquations(self.field, times[block], h, base, self.method.block_matrix, self.mass)
            with torch.no_grad():
                guess = self.guesses.of(block, stages)
                k, lost = self.solver.solve(equations.detached(), guess, robust=not with_error)
            failed |= lost
            if failed.all() and failed.size:
                return Trial(y, torch.full_like(y, float("nan")), [*stages, *k.unbind()], self._flag(failed, y))
            stages.extend(attached(equations, k, self.solver).unbind())
        self.guesses.end(stages)
        self.pending = stages[-1] if self.method.fsal else None
        y1 = add_scaled(y, h, weighted_sum(tableau.b, stages))
        error = None
        if with_error and tableau.b_error is not None:
            with torch.no_grad():
                error = self._estimate(tableau.b_error, stages)
                error = error * step
                if self.method.error_filter:
                    error = self.solver.filtered(error, self.method.error_filter)
        return Trial(y1, error, stages, self._flag(failed, y))

    def _estimate(self, weights: Sequence[float], stages: list[Tensor]) -> Tensor:
        """The error estimate over h; with a mass matrix, M times it, f(t, y) being M y' (HW II, section IV.8)."""
        if self.mass is not None:
            stages = [stages[0], *(k @ self.mass.mT for k in stages[1:])]
        error = weighted_sum(weights, stages)
        assert error is not None
        return error

    def _flag(self, failed: np.ndarray, y: Tensor) -> bool | Tensor:
        return torch.from_numpy(failed).to(y.device) if self.accuracy.per_sample else bool(failed)

    def _complex_trial(self, times, h, y, derivative, with_error) -> Trial:
        """The same over real and imaginary parts: the field need not be holomorphic."""
        if self.over_reals is None:
            self.over_reals = BoundImplicit(self.method, RealField(self.field), over_reals(self.accuracy))
        if isinstance(h, Tensor) and h.dim():
            h = h.real.unsqueeze(-1) if h.is_complex() else h.unsqueeze(-1)
        real = torch.view_as_real
        trial = self.over_reals.trial(times, h, real(y), lambda: real(derivative()), with_error)
        back = lambda x: torch.view_as_complex(x.contiguous())  # noqa: E731
        error = None if trial.error is None else back(trial.error)
        stages = [back(k) for k in trial.stages]
        self.pending = stages[-1] if self.method.fsal else None
        return Trial(back(trial.y1), error, stages, trial.failed)

    def accepted(self, where: Tensor | None = None) -> None:
        self.end_slope = self.pending
        if self.over_reals is not None:
            self.over_reals.accepted(where)
            return
        self.solver.accepted(where)
        self.guesses.accepted(where)

    def jumped(self) -> None:
        self.end_slope = self.pending = None
        if self.over_reals is not None:
            self.over_reals.jumped()
            return
        self.solver.jumped()
        self.guesses.forget()

    def memory(self) -> tuple[Tensor, ...]:
        """The last stage, with its gradient, and what decides at which iterate the next step's equations stop."""
        of = self.over_reals or self
        if not of.begun:
            return ()
        slope = torch.empty(0) if self.end_slope is None else self.end_slope
        return (slope, *of.guesses.memory(), *of.solver.memory())

    def notes(self) -> Any:
        return (self.over_reals or self).solver.notes()

    def restore(
        self, memory: tuple[Tensor, ...], notes: Any = None, start: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self.end_slope = self.pending = None
        if self.over_reals is not None:
            start = None if start is None else (start[0], torch.view_as_real(start[1].detach()))
        of = self.over_reals or self
        of.guesses.restore(memory[1:3])
        if memory and memory[0].numel():
            self.end_slope = memory[0]
        of.solver.restore(memory[3:], notes, start)


class StageGuesses:
    """First guesses for the stages.

    Stages solved together: the polynomial through the last step's stages, continued (HW II, section IV.8). One after
    the other: through the stages already known, at most three of them; a stage at the same node is taken as it is.
    """

    def __init__(self, method: ImplicitRungeKutta) -> None:
        self.nodes = np.array(method.c)
        self.together = len(method.blocks) == 1 and len(method.c) > 2
        self.weights = [] if self.together else [extrapolation(self.nodes, i) for i in range(len(self.nodes))]
        self.lagrange = lagrange(self.nodes[1:]) if self.together else np.zeros((0, 0))
        self.forget()

    def forget(self) -> None:
        self.last: tuple[Tensor, StepSize] | None = None
        self.trial: tuple[Tensor, StepSize] | None = None

    def memory(self) -> tuple[Tensor, Tensor]:
        """The last step's stages and size; empty where there are none to continue."""
        if self.last is None:
            return torch.empty(0), torch.empty(0)
        k, h = self.last
        assert isinstance(h, float)
        return k, torch.tensor(h, dtype=torch.float64)

    def restore(self, memory: tuple[Tensor, ...]) -> None:
        self.forget()
        if memory and memory[0].numel():
            self.last = memory[0].detach(), memory[1].item()

    def begin(self, f0: Tensor, h: StepSize) -> None:
        self.f0, self.h = f0, h

    def of(self, block: slice, stages: list[Tensor]) -> Tensor:
        """For the stages of a block [s, *state]."""
        if not self.together:
            guess = weighted_sum(self.weights[block.start], [k.detach() for k in stages])
            assert guess is not None
            return guess[None]
        start = self.f0.expand(len(self.nodes) - 1, *self.f0.shape)
        if self.last is None:
            return start
        k, h = self.last
        if not isinstance(self.h, Tensor) or not self.h.dim():
            times = 1 + self.nodes[1:] * float(self.h / h)
            weights = np.vander(times, len(times), increasing=True) @ self.lagrange.T
            return torch.tensordot(torch.from_numpy(weights).to(k), k, dims=1)
        assert isinstance(h, Tensor)
        ratio = torch.where(h != 0, self.h / h, 0.0).reshape(-1)  # [batch]
        theta = 1 + ratio[:, None] * torch.from_numpy(self.nodes[1:]).to(k)
        powers = theta[..., None] ** torch.arange(theta.shape[1], device=k.device)  # [batch, s, s]
        guess = torch.einsum("bij,jb...->ib...", powers @ torch.from_numpy(self.lagrange.T.copy()).to(k), k)
        return torch.where(h != 0, guess, start)

    def end(self, stages: list[Tensor]) -> None:
        if self.together:
            self.trial = (torch.stack(stages[1:]).detach(), self.h)

    def accepted(self, where: Tensor | None) -> None:
        if self.trial is None:
            return
        if where is None:
            self.last = self.trial
            return
        k, h = self.trial
        assert isinstance(h, Tensor)
        old_k, old_h = (k, torch.zeros_like(h)) if self.last is None else self.last
        assert isinstance(old_h, Tensor)
        mask = where.reshape(h.shape)
        self.last = (torch.where(mask, k, old_k), torch.where(mask, h, old_h))


def extrapolation(nodes: np.ndarray, i: int, most: int = 3) -> list[float]:
    """Weights of the stages before i in the guess for k_i."""
    weights = np.zeros(max(i, 1))
    same = [j for j in range(i) if abs(nodes[j] - nodes[i]) < 1e-12]
    if same or i == 0:
        weights[same[-1] if same else 0] = 1.0
        return weights.tolist()  # type: ignore[no-any-return]
    near = sorted(range(i), key=lambda j: abs(nodes[j] - nodes[i]))[:most]
    weights[near] = lagrange(nodes[near]) @ nodes[i] ** np.arange(len(near))
    return weights.tolist()  # type: ignore[no-any-return]
