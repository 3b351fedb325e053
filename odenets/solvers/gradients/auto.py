"""A written rule for which method to use.

1. Where only autograd works (every step or dense output wanted, a clock per sample, multistep methods, a field whose
   parameters cannot be seen), and where no gradient is wanted: autograd.
2. The bytes that one evaluation of the field keeps for its gradient are measured, times stages, times steps (100 where
   the steps are adaptive): if that is within the budget, autograd, the fastest.
3. Else, if the states of all steps and one step's evaluations are within the budget: `checkpoint`, the next fastest.
4. Else, if the states and one evaluation are, and the method is a Runge-Kutta method: `discrete_adjoint`.
5. Else `recursive`.

All of these are exact: `auto` never changes the gradient, only its cost. It does not choose `reversible`, which loses
precision where the field contracts or expands strongly, nor `adjoint`, which is as exact as its tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import InputError
from ..events.segments import solve_by_segments
from ..solution import Solution
from .autograd import Autograd
from .base import Gradient, SolveProblem
from .checkpoint import Checkpoint
from .discrete_adjoint import DiscreteAdjoint
from .recursive import Recursive, number_of_steps
from .replay import require_steps, undisturbed
from .stages import has_stages

ADAPTIVE_STEPS = 100  # assumed where only the solve will tell


@dataclass(frozen=True)
class Auto(Gradient):
    """Autograd where its memory is small, else the cheapest exact method that fits.

    Args:
        budget: bytes that the solve may keep for its gradient.
    """

    name: ClassVar[str] = "auto"
    takes_events: ClassVar[bool] = True
    budget: float = 2.0**30

    def __post_init__(self) -> None:
        if not self.budget > 0:
            raise InputError(f"budget must be a positive number of bytes, got {self.budget}.")

    def check(self, problem: SolveProblem) -> None:
        if not _recomputable(problem):
            Autograd().check(problem)

    def solve(self, problem: SolveProblem) -> Solution:
        method = self.choose(problem)
        by_segments = problem.events and not method.takes_events
        return solve_by_segments(method, problem) if by_segments else method.solve(problem)

    def choose(self, problem: SolveProblem) -> Gradient:
        """The method that the rule picks."""
        if not torch.is_grad_enabled() or not _recomputable(problem):
            return Autograd()
        steps = number_of_steps(problem) or ADAPTIVE_STEPS
        integrator: Any = problem.start(problem.ts[0].detach(), problem.y.detach())
        stages, kept = len(integrator.method.c), bytes_kept(problem)
        states = steps * problem.y.numel() * problem.y.element_size()
        if steps * stages * kept <= self.budget:
            return Autograd()
        if states + stages * kept <= self.budget:
            return Checkpoint()
        if states + kept <= self.budget and has_stages(problem):
            return DiscreteAdjoint()
        return Recursive()


def _recomputable(problem: SolveProblem) -> bool:
    if problem.per_sample or problem.dense or problem.save_at == "steps":
        return False
    try:
        require_steps(problem, "auto")
        problem.parameters("auto")
    except InputError:
        return False
    return True


def bytes_kept(problem: SolveProblem) -> int:
    """What autograd keeps of one evaluation of the field, parameters not counted, and the state itself."""
    known = {p.untyped_storage().data_ptr() for p in problem.parameters("auto")}
    seen: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in known:
            seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    y = problem.y.detach().requires_grad_(True)
    time = problem.ts[0].detach().to(y.real.dtype)
    with undisturbed(problem), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        value = problem.flat.evaluate(time, y)
    return sum(seen.values()) + value.numel() * value.element_size()
