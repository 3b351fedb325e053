"""The compared libraries behind one interface: solve, and return the states at the output times after the start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchdiffeq
import torchode
from problems import Problem
from torch import Tensor, nn
from torchdiffeq._impl.odeint import SOLVERS as TORCHDIFFEQ_METHODS

from odenets import solvers

Solve = Callable[[Tensor, Tensor], Tensor]  # (y0 [batch, features], ts [T]) -> [T - 1, batch, features]


@dataclass(frozen=True)
class Contender:
    """One way to solve.

    Attributes:
        name: as in the table.
        library: odenets, torchdiffeq or torchode.
        prepare: (field, problem, method) -> Solve; not timed.
        methods: it has.
        adjoint: whether its backward is a solve of its own.
        first_calls: calls of the field in a forward solve that belong to no step.
        jump_calls: the same in an adjoint's backward solve, for a number of output intervals.
        eager: whether its operations can be counted.
    """

    name: str
    library: str
    prepare: Callable[[nn.Module, Problem, str], Solve]
    methods: tuple[str, ...] = ("dopri5", "tsit5")
    adjoint: bool = False
    first_calls: int = 2
    jump_calls: Callable[[int], int] = lambda intervals: 0
    eager: bool = True


def _dropin(odeint: Callable[..., Tensor]) -> Callable[[nn.Module, Problem, str], Solve]:
    def prepare(field: nn.Module, problem: Problem, method: str) -> Solve:
        tolerance = problem.tolerance
        return lambda y0, ts: odeint(field, y0, ts, rtol=tolerance, atol=tolerance, method=method)[1:]

    return prepare


def _solve(**settings: object) -> Callable[[nn.Module, Problem, str], Solve]:
    def prepare(field: nn.Module, problem: Problem, method: str) -> Solve:
        tolerance = problem.tolerance
        return lambda y0, ts: solvers.solve(
            field, y0, ts, solver=method, rtol=tolerance, atol=tolerance, **settings  # type: ignore[arg-type]
        ).ys[1:]  # fmt: skip

    return prepare


def _torchode(compiled: bool) -> Callable[[nn.Module, Problem, str], Solve]:
    def prepare(field: nn.Module, problem: Problem, method: str) -> Solve:
        term = torchode.ODETerm(field)
        step = {"dopri5": torchode.Dopri5, "tsit5": torchode.Tsit5}[method](term=term)
        control = torchode.IntegralController(problem.tolerance, problem.tolerance, term=term)
        # gradients do not pass through the choice of the step size, as in the other libraries
        loop = torchode.AutoDiffAdjoint(step, control, backprop_through_step_size_control=False)
        run = torch.compile(loop.solve) if compiled else loop.solve

        def solve(y0: Tensor, ts: Tensor) -> Tensor:
            start, end = ts[0].expand(len(y0)), ts[-1].expand(len(y0))
            if len(ts) == 2:  # its fast path: no evaluation points
                return run(torchode.InitialValueProblem(y0, start, end)).ys.transpose(0, 1)
            points = ts[1:].expand(len(y0), -1)
            return run(torchode.InitialValueProblem(y0, start, end, points)).ys.transpose(0, 1)

        return solve

    return prepare


FORWARD = (
    Contender("odenets odeint", "odenets", _dropin(solvers.odeint)),
    Contender("odenets solve", "odenets", _solve()),
    Contender("odenets solve, per sample", "odenets", _solve(per_sample=True)),
    Contender("torchdiffeq odeint", "torchdiffeq", _dropin(torchdiffeq.odeint), tuple(TORCHDIFFEQ_METHODS)),
    Contender("torchode, per sample", "torchode", _torchode(compiled=False)),
)
COMPILED = Contender("torchode, solve compiled", "torchode", _torchode(compiled=True), eager=False)
# a solve per output interval starts anew (torchdiffeq), or goes on with the derivative evaluated after the jump
ADJOINT = (
    Contender(
        "odenets odeint_adjoint", "odenets", _dropin(solvers.odeint_adjoint), adjoint=True, jump_calls=lambda n: 1 + n
    ),
    Contender(
        "odenets solve, adjoint", "odenets", _solve(gradient="adjoint"), adjoint=True, jump_calls=lambda n: 1 + n
    ),
    Contender(
        "torchdiffeq odeint_adjoint", "torchdiffeq", _dropin(torchdiffeq.odeint_adjoint), tuple(TORCHDIFFEQ_METHODS),
        adjoint=True, jump_calls=lambda n: 2 * n,
    ),
)  # fmt: skip
