"""Newton's method for the stages: simplified with factors kept over stages and steps, or by GMRES without matrices.

The simplified iteration (HW II, section IV.8) solves (I - h A (x) J) dk = f - k with one Jacobian J from the start of
the step for all stages and iterations. A is diagonalised once, T^{-1} A T = diag(lambda): instead of one matrix of size
s D there is one of size D for every real eigenvalue and every conjugate pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..one_step import Accuracy
from ..step import Field, StepSize
from .linear import ShiftedLU, gmres, moving, over_systems
from .nonlinear import Nonlinear, Solved, StageSolver, bookkeeping_shape, where_samples
from .stages import StageEquations, by_stage, by_system

_SLOW = 1e-3  # rates above that call for a new Jacobian (HW II, IV.8)


@dataclass(frozen=True)
class Newton(Nonlinear):
    """Simplified Newton iteration with an LU factorisation per system; see `Nonlinear` for the settings."""

    def bind(self, field: Field, accuracy: Accuracy, matrix: np.ndarray) -> StageSolver:
        return NewtonSolver(self, field, accuracy, matrix)


@dataclass(frozen=True)
class NewtonKrylov(Nonlinear):
    """Inexact Newton iteration: linear systems by GMRES with Jacobian-vector products, no matrix ever.

    Args:
        krylov_rtol: to which the linear systems are solved.
        krylov_iterations: products at most for one of them.
    """

    krylov_rtol: float = 1e-2
    krylov_iterations: int = 100

    def bind(self, field: Field, accuracy: Accuracy, matrix: np.ndarray) -> StageSolver:
        return NewtonSolver(self, field, accuracy, matrix)


class NewtonSolver(StageSolver):
    """Newton's iteration on one field, with what it has learned."""

    def __init__(self, settings: Nonlinear, field: Field, accuracy: Accuracy, matrix: np.ndarray) -> None:
        super().__init__(settings, field, accuracy, matrix)
        self.modes = Modes(matrix)
        mass = getattr(field, "mass", None)
        self.mass: Tensor | None = None if mass is None else mass.detach()
        self.krylov_rtol = getattr(settings, "krylov_rtol", 1e-2)
        self.krylov_iterations = getattr(settings, "krylov_iterations", 100)
        self.dense = True
        self.jacobian: Tensor | None = None
        self.taken_at: tuple[Tensor, Tensor] | None = None  # (t, y) of that Jacobian
        self.fresh = False  # whether the Jacobian is that of the state the step starts from
        self.slow = False
        self.factors: list[ShiftedLU] = []
        self.factored_h: StepSize | None = None
        self.eta: np.ndarray = np.ones(())

    def begin(self, t: Tensor, y: Tensor, h: StepSize) -> None:
        self.t, self.y, self.h = t, y, h
        self.dims = self.batch_dims(t, y)
        size = y.shape[self.dims :].numel()
        self.dense = isinstance(self.settings, Newton) and size <= self.settings.dense_limit
        self.inverse_scale = self.scale(y)
        if self.dense:
            if self.jacobian is None or (self.slow and not self.fresh):
                self._evaluate_jacobian()
            self._factorise()

    def _evaluate_jacobian(self) -> None:
        self._take_jacobian(self.t, self.y)
        self.fresh, self.slow, self.factored_h = True, False, None

    def _take_jacobian(self, t: Tensor, y: Tensor) -> None:
        jacobian = self.line.matrix(t, y, self.dims)
        if jacobian.dtype in (torch.float16, torch.bfloat16):
            jacobian = jacobian.float()
        self.jacobian, self.taken_at = jacobian.reshape(-1, *jacobian.shape[-2:]), (t, y)
        self.work.jacobians += 1

    def _is_factored(self) -> bool:
        """Whether the factors are for this step size, or one so near that the iteration hardly notices."""
        known, h = self.factored_h, self.h
        if isinstance(known, Tensor) and isinstance(h, Tensor):
            return torch.equal(known, h)
        return isinstance(known, float) and isinstance(h, float) and abs(known - h) <= 1e-3 * abs(h)

    def _factorise(self) -> None:
        h, known = self.h, self._is_factored()
        if known:
            if self.factors:
                return
            assert self.factored_h is not None
            h = self.factored_h  # forgotten by `restore`
        assert self.jacobian is not None
        shift = moving(h).reshape(-1) if isinstance(h, Tensor) else h
        mass = None if self.mass is None else over_systems(self.mass, self.jacobian.shape[-1])
        self.factors = []
        for value in self.modes.values:
            jacobian = (
                self.jacobian.to(self.jacobian.dtype.to_complex()) if isinstance(value, complex) else self.jacobian
            )
            self.factors.append(ShiftedLU(jacobian, shift * value, mass))
        self.factored_h = h
        if not known:
            self.eta = np.ones(bookkeeping_shape(self.accuracy, self.y))
        self.work.factorisations += 1

    # One block of stages

    def solve(self, equations: StageEquations, guess: Tensor, robust: bool = False) -> Solved:
        solved = self._iterate(equations, guess)
        if solved.failed.any() and self.dense and not self.fresh:
            self._evaluate_jacobian()
            self._factorise()
            again = self._iterate(equations, where_samples(solved.failed, guess, solved.k))
            solved = Solved(where_samples(solved.failed, again.k, solved.k), solved.failed & again.failed)
        if (
            solved.failed.any()
            and self.probed
            and self.dims
            and not self.line.independent(self.t, self.y + solved.k[0])
        ):
            self._batch_dims, self.probed, self.jacobian = 0, False, None  # the samples are coupled after all
            self.begin(self.t, self.y, self.h)
            solved = self._iterate(equations, guess)
        if solved.failed.any() and robust:
            solved = self._damped(equations, guess)
        return solved

    def _iterate(self, equations: StageEquations, k: Tensor) -> Solved:
        shape = bookkeeping_shape(self.accuracy, self.y)
        active, failed = np.ones(shape, bool), np.zeros(shape, bool)
        eta = np.maximum(self.eta, 1e-16) ** 0.8
        previous: np.ndarray | None = None
        kappa, limit = self.kappa(self.y), self.settings.max_iterations
        for iteration in range(limit):
            delta = self._correction(equations, k, equations.residual(k))
            self.work.iterations += 1
            moves = equations.increments(delta)
            size = self.size(moves, self.inverse_scale)
            with np.errstate(all="ignore"):
                bad = ~np.isfinite(size)
                if previous is not None:
                    rate = size / previous
                    observed = rate / (1 - rate)
                    hopeless = ~(rate < 1) | (rate ** (limit - 1 - iteration) * observed * size > kappa)
                    observed = np.maximum(observed, 0)
                    if (hopeless & active).any():
                        hopeless &= ~self.rounding(moves, equations.base)
                        bad |= hopeless & (size > 0)
                        observed = np.where(hopeless, observed, np.where(rate < 1, observed, 0.0))
                    eta = np.where(active, observed, eta)  # what has converged keeps the rate at which it did
                    if iteration > 1 and (rate[active] > _SLOW).any():
                        self.slow = True
                good = ~bad & (eta * size <= kappa)
            bad &= active
            if bad.any():
                self.cause = self._diagnosis(size[bad])
            k = where_samples(active & ~bad, k + delta, k)
            failed |= bad
            active &= ~(bad | good)
            if not active.any():
                break
            previous = size
        if active.any():
            self.cause = f"Newton's iteration did not converge in {limit} updates"
        self.eta = np.where(failed | active, 1.0, eta)
        return Solved(k, failed | active)

    def _diagnosis(self, sizes: np.ndarray) -> str:
        if np.isfinite(sizes).all():
            return "Newton's iteration diverged"
        if self.factors and bool(torch.stack([f.singular.any() for f in self.factors]).any()):
            if self.jacobian is not None and not bool(torch.isfinite(self.jacobian).all()):
                return "the field's Jacobian is NaN or infinite"
            return "the Newton matrix I - h gamma J is singular"
        return "the field is NaN or infinite at an iterate"

    def _correction(self, equations: StageEquations, k: Tensor, residual: Tensor) -> Tensor:
        """dk [s, *state] for the residual f - M k."""
        if not self.dense:
            return self._krylov(equations, k, residual)
        systems = residual.reshape(len(residual), len(self.factors[0].pivots), -1)
        return self.modes.solve(self.factors, systems).reshape(residual.shape).to(residual.dtype)

    def _krylov(self, equations: StageEquations, k: Tensor, residual: Tensor) -> Tensor:
        product = equations.product(self.line, k)
        rhs = by_system(residual, self.dims)
        if not bool(torch.isfinite(rhs).all()):
            return torch.full_like(residual, float("nan"))
        result = gmres(
            lambda v: by_system(product(by_stage(v, residual)), self.dims),
            rhs, rtol=self.krylov_rtol, max_iterations=self.krylov_iterations,
        )  # fmt: skip
        self.work.products += result.iterations * len(residual)
        return by_stage(result.x, residual)

    def _damped(self, equations: StageEquations, k: Tensor) -> Solved:
        """Newton's method proper, with the Jacobian at every iterate, and updates halved until the residual falls."""
        failed = np.zeros(bookkeeping_shape(self.accuracy, self.y), bool)
        kappa = self.kappa(self.y)
        residual = equations.residual(k)
        merit = torch.linalg.vector_norm(by_system(residual, self.dims), dim=-1)
        # where the guess is out of reach, or further from a solution than the state itself, start from that
        resting = equations.residual(torch.zeros_like(k))
        near = torch.linalg.vector_norm(by_system(resting, self.dims), dim=-1)
        rest = ~(merit <= near)[:, None]
        k = by_stage(by_system(k, self.dims).masked_fill(rest, 0.0), k)
        residual = by_stage(torch.where(rest, by_system(resting, self.dims), by_system(residual, self.dims)), k)
        merit = torch.where(rest[:, 0], near, merit)
        for _ in range(5 * self.settings.max_iterations):
            if self.dense:
                matrix = equations.dense(self.line, k, self.dims)
                matrix = matrix.reshape(-1, *matrix.shape[-2:])
                update, _ = torch.linalg.solve_ex(matrix, by_system(residual, self.dims).to(matrix.dtype))
                delta = by_stage(update, residual).to(residual.dtype)
                self.work.jacobians, self.work.factorisations = self.work.jacobians + 1, self.work.factorisations + 1
            else:
                delta = self._krylov(equations, k, residual)
            self.work.iterations += 1
            moves = equations.increments(delta)
            size = self.size(moves, self.inverse_scale)
            if (size <= kappa).all() or (np.isfinite(size).all() and self.rounding(moves, equations.base).all()):
                return Solved(k + delta, failed)
            if not np.isfinite(size).all():
                break
            share = torch.ones_like(merit)
            for _ in range(12):
                trial = k + by_stage(by_system(delta, self.dims) * share[:, None], delta)
                left = equations.residual(trial)
                fresh = torch.linalg.vector_norm(by_system(left, self.dims), dim=-1)
                better = fresh <= (1 - share / 4) * merit
                if bool(better.all()):
                    break
                share = torch.where(better, share, share / 2)
            k, residual, merit = trial, left, fresh
        if not bool(torch.isfinite(residual).all()):
            self.cause = self._diagnosis(np.array([np.nan]))
        else:
            self.cause = "Newton's iteration did not converge, damped and with a Jacobian at every iterate"
            if not np.isfinite(size).all():
                self.cause += ": there, the Newton matrix I - h gamma J is singular"
        return Solved(k, ~failed)

    def filtered(self, error: Tensor, shift: float) -> Tensor:
        if self.dense:
            index = int(np.argmin(np.abs(np.array(self.modes.values) - shift)))
            systems = error.reshape(len(self.factors[index].pivots), -1).to(self.factors[index].factors.dtype)
            return self.factors[index].solve(systems).reshape(error.shape).to(error.dtype)
        equations = StageEquations(self.field, [self.t], self.h, self.y, np.array([[shift]]), self.mass)
        return self._krylov(equations, torch.zeros_like(error)[None], error[None])[0]

    def accepted(self, where: Tensor | None = None) -> None:
        self.fresh = False

    def jumped(self) -> None:
        self.jacobian, self.taken_at, self.fresh = None, None, False

    def memory(self) -> tuple[Tensor, ...]:
        """Not the Jacobian but the time and state it was taken at."""
        return self.taken_at or ()

    def notes(self) -> _Notes:
        assert not isinstance(self.factored_h, Tensor)
        return _Notes(self.fresh, self.slow, self.factored_h, self.eta)

    def restore(self, memory: tuple[Tensor, ...], notes: _Notes | None, start: tuple[Tensor, Tensor] | None) -> None:
        if notes is None:
            return self.jumped()
        at = start if notes.fresh else memory
        if not at:
            self.jumped()
        elif self.taken_at is None or self.taken_at[1].data_ptr() != at[1].data_ptr():
            self.factors = []
            self._take_jacobian(at[0].detach(), at[1].detach())
        if notes.factored_h != self.factored_h:
            self.factors = []
        self.fresh, self.slow, self.factored_h, self.eta = notes
        return None


class _Notes(NamedTuple):
    """Of a Newton iteration before a trial, see there."""

    fresh: bool
    slow: bool
    factored_h: float | None
    eta: np.ndarray


class Modes:
    """The eigenvalues of A, one of each conjugate pair, and the way from stages to modes and back."""

    def __init__(self, matrix: np.ndarray) -> None:
        values, vectors = np.linalg.eig(matrix)
        keep = [i for i, value in enumerate(values) if value.imag >= 0]
        real = [abs(values[i].imag) < 1e-14 for i in keep]
        self.values = [float(values[i].real) if r else complex(values[i]) for i, r in zip(keep, real)]
        self.into = np.linalg.inv(vectors)[keep]  # [modes, s]
        self.back = vectors[:, keep] * np.where(real, 1.0, 2.0)  # [s, modes]; a pair's other half is its conjugate

    def solve(self, factors: list[ShiftedLU], residual: Tensor) -> Tensor:
        """(I - h A (x) J)^{-1} residual, [s, B, D], by the factors of I - h lambda J."""
        if len(residual) == 1:
            return factors[0].solve(residual[0].to(factors[0].factors.dtype))[None]
        total: Tensor | float = 0.0
        for value, lu, row, column in zip(self.values, factors, self.into, self.back.T):
            dtype = lu.factors.dtype
            if not isinstance(value, complex):
                row, column = row.real, column.real
            weights = torch.from_numpy(np.ascontiguousarray(row)).to(residual.device, dtype)
            mode = lu.solve(torch.tensordot(weights, residual.to(dtype), dims=1))
            part = torch.from_numpy(np.ascontiguousarray(column)).to(residual.device, dtype)[:, None, None] * mode
            total = total + (part.real if isinstance(value, complex) else part)
        assert isinstance(total, Tensor)
        return total
