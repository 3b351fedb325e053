"""How the equations of an implicit step are solved: the settings, and the iteration all solvers share.

Iterates k are stages [s, *state]; sizes are measured on the states they stand for, h A dk, in the norm and tolerance of
the step, so that 1 means "as large as the error allowed". The stopping rule is that of Hairer and Wanner II, section
IV.8: with the observed rate of convergence theta, the error that is left is about theta / (1 - theta) times the last
update; the iteration ends when that is below kappa, and gives up as soon as it cannot get there any more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..one_step import Accuracy
from ..step import Field, StepSize
from .linear import Linearisation
from .phantom import Phantom
from .stages import StageEquations


@dataclass
class Work:
    """What the implicit equations of a solve cost, each counted on the whole batch.

    Attributes:
        iterations: of the nonlinear solver.
        jacobians: evaluations of the Jacobian matrices.
        factorisations: of the iteration matrices (all that one step size and Jacobian need count as one).
        products: Jacobian-vector products of Krylov methods.
    """

    iterations: int = 0
    jacobians: int = 0
    factorisations: int = 0
    products: int = 0


@dataclass(frozen=True)
class Nonlinear:
    """Settings that all solvers of implicit equations have.

    Args:
        max_iterations: updates at most before a step is given up.
        kappa: share of the step's tolerance that the iteration may leave; None chooses it from rtol.
        batch_dims: how many leading dimensions of the state number separate systems. None: 1 with a clock per sample;
            otherwise a state [B, ...] is probed once: where its samples do not influence each other they are separate
            systems with a Jacobian each, else (and for a state [D]) everything is one system.
        dense_limit: systems with more elements than that are solved by GMRES, without a matrix.
        twice_differentiable: whether the solution can be differentiated twice, for one more evaluation per stage.
        phantom: the gradient by a few steps of an iteration, cheap and biased, see `Phantom`; None is the exact one.

    Raises:
        InputError: for settings out of range.
    """

    max_iterations: int = 10
    kappa: float | None = None
    batch_dims: int | None = None
    dense_limit: int = 512
    twice_differentiable: bool = False
    phantom: Phantom | None = None

    def __post_init__(self) -> None:
        if self.max_iterations < 2:
            raise InputError(f"max_iterations must be at least 2, got {self.max_iterations}.")
        if self.kappa is not None and not self.kappa > 0:
            raise InputError(f"kappa must be positive, got {self.kappa}.")
        if self.phantom is not None and self.twice_differentiable:
            raise InputError("a phantom gradient has no second derivatives: leave out phantom or twice_differentiable.")
        if self.batch_dims is not None and self.batch_dims < 0:
            raise InputError(f"batch_dims must not be negative, got {self.batch_dims}.")

    def bind(self, field: Field, accuracy: Accuracy, matrix: np.ndarray) -> StageSolver:
        """The solver for one solve's blocks of stages, all with the same matrix [s, s]."""
        raise NotImplementedError


class Solved(NamedTuple):
    """Attributes: the stages k [s, *state], and where they were not found, [] or [batch] on the host."""

    k: Tensor
    failed: np.ndarray


class StageSolver(ABC):
    """A nonlinear solver on one field, for one solve.

    Attributes:
        work: what it has cost; shared by all that report to the same solve.
        cause: why the last solve failed.
        line: the field's derivatives.
    """

    cause = ""

    def __init__(self, settings: Any, field: Field, accuracy: Accuracy, matrix: np.ndarray) -> None:
        self.settings, self.field, self.accuracy, self.matrix = settings, field, accuracy, matrix
        self.line = Linearisation(field)
        self.work = Work()
        self._kappa: float | None = settings.kappa
        self._batch_dims: int | None = 1 if accuracy.per_sample else settings.batch_dims
        self.probed = self._batch_dims is None

    @abstractmethod
    def begin(self, t: Tensor, y: Tensor, h: StepSize) -> None:
        """A trial step starts: t [] or [batch], y [*state]."""

    @abstractmethod
    def solve(self, equations: StageEquations, guess: Tensor, robust: bool = False) -> Solved:
        """The stages of one block from a guess [s, *state].

        robust: whether to go to any length (the step cannot be made smaller).
        """

    def filtered(self, error: Tensor, shift: float) -> Tensor:
        """(I - h shift J)^{-1} error: the stiff components that an explicit part left in an estimate, damped."""
        raise NotImplementedError

    def accepted(self, where: Tensor | None = None) -> None:
        """The trial became a step (for the samples `where` [batch], if each has its own clock)."""

    def jumped(self) -> None:
        """The state was replaced."""

    def memory(self) -> tuple[Tensor, ...]:
        """What the iterates of the next step depend on besides its equations; () for nothing. One clock only."""
        return ()

    def notes(self) -> Any:
        """What else they depend on, a few numbers."""
        return None

    def restore(self, memory: tuple[Tensor, ...], notes: Any, start: tuple[Tensor, Tensor] | None) -> None:
        """Go on from (t, y) as it was with this memory and these notes."""
        self.jumped()

    # Measuring

    def batch_dims(self, t: Tensor, y: Tensor) -> int:
        """How many leading dimensions number separate systems; found out at the first step."""
        if self._batch_dims is None:
            self._batch_dims = int(self.line.independent(t, y))
        return self._batch_dims

    def kappa(self, y: Tensor) -> float:
        if self._kappa is None:
            self._kappa = share_of_tolerance(self.accuracy.rtol, y.dtype)
        return self._kappa

    def scale(self, y: Tensor) -> Tensor:
        """1 / (atol + rtol |y|)."""
        return (y.abs() * self.accuracy.rtol + self.accuracy.atol).reciprocal()

    def size(self, moves: Tensor, scale: Tensor) -> np.ndarray:
        """Norm of scaled changes of the stages' states [s, *state]: [] or [batch], on the host."""
        norms = [torch.as_tensor(self.accuracy.norm(move * scale)).abs() for move in moves]
        total = norms[0] if len(norms) == 1 else torch.stack(norms).amax(0)
        return total.double().cpu().numpy()

    def rounding(self, moves: Tensor, base: Tensor) -> np.ndarray:
        """Whether the changes are no more than what rounding leaves in states of this size."""
        keep = 1 if self.accuracy.per_sample else 0
        change = moves.abs().amax(0).flatten(keep).amax(-1)
        states = torch.maximum(base.abs(), (base + moves[-1]).abs()).flatten(keep).amax(-1)
        return (change <= 32 * torch.finfo(base.dtype).eps * states).cpu().numpy()


def share_of_tolerance(rtol: float | Tensor, dtype: torch.dtype) -> float:
    """The kappa of HW II, section IV.8: small against the step's tolerance, large against rounding."""
    rtol = float(rtol.min()) if isinstance(rtol, Tensor) else rtol
    epsilon = torch.finfo(dtype).eps
    return max(10 * epsilon / max(rtol, epsilon), min(0.03, rtol**0.5))


def bookkeeping_shape(accuracy: Accuracy, y: Tensor) -> tuple[int, ...]:
    """Of what is decided per clock: [] or [batch]."""
    return (len(y),) if accuracy.per_sample else ()


def where_samples(mask: np.ndarray, x: Tensor, y: Tensor) -> Tensor:
    """Stages [s, batch, ...]: x where the mask [] or [batch] holds, y elsewhere."""
    if mask.all():
        return x
    if not mask.any():
        return y
    chosen = torch.from_numpy(mask).to(x.device)
    return torch.where(chosen.reshape(1, -1, *([1] * (x.dim() - 2))) if mask.ndim else chosen, x, y)
