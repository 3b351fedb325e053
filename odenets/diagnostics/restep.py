"""The same trained flow with other steps, or solved by another solver; the parameters are shared."""

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from odenets.diagnostics.gates import step_sizes
from odenets.diagnostics.trace import bound, has_field
from odenets.fields.basis import grid
from odenets.models import FlowStack, NeuralODE
from odenets.models.varying_block import VaryingBlock
from odenets.solvers import TABLEAUS, Adams, Adaptive, FixedStep, Solver, resolve_solver
from odenets.solvers.methods import one_step_method

Flow = FlowStack | NeuralODE
STEPS = 32
"""Fixed steps over a neural ODE's interval where none are given: enough to tell a method of order 4 from the truth."""


def with_steps(flow: Flow, factor: float) -> Flow:
    """The flow with steps `factor` times as large: 1/2, 1/4 ... refine it, 2, 4 ... make it coarser.

    Of an adaptive neural ODE the tolerances are multiplied by factor^p, p the method's order: its error estimate is
    proportional to h^p, so that its steps become about `factor` times as large.

    Raises:
        ValueError: neither factor nor 1/factor is a whole number, or the flow cannot take such steps.
    """
    if isinstance(flow, FlowStack):
        if factor <= 1:
            return flow.refine(_whole(1 / factor))
        return coarsen(flow, _whole(factor))
    return with_solver(flow, _stepped(flow.solver, factor))


def step_of(flow: Flow) -> float | None:
    """The step size h of the flow, the mean of learned ones; None where the solver chooses it."""
    if isinstance(flow, FlowStack):
        return float(step_sizes(flow).mean())
    solver = flow.solver
    if isinstance(solver, FixedStep) and solver.step_size is not None:
        return float(solver.step_size)
    if isinstance(solver, FixedStep) and solver.grid_constructor is None:
        return abs(flow.t1 - flow.t0) / (solver.steps or 1)
    return None


def coarsen(stack: FlowStack, factor: int = 2) -> FlowStack:
    """The stack with steps `factor` times as large over the same T: N / factor steps.

    Parameters are functions of time read at the steps' starts: of blocks with weights of their own every factor-th
    is left, each making its own step that much larger; functions of time are read at fewer times. Learned step sizes
    are added up.

    Raises:
        ValueError: a factor below 1 or that does not divide the number of steps of each kind, a refined stack, or
            blocks of which the last one owns what reads the state out.
    """
    cycles = stack.N // stack.kinds
    if factor < 1 or cycles % factor or stack.factor != 1:
        raise ValueError(
            f"coarsen expects an unrefined stack and a factor that divides its {cycles} steps of each kind, got "
            f"factor={factor}; train with a multiple of it"
        )
    coarse = copy.copy(stack)
    coarse._modules = dict(stack._modules)
    coarse.N = stack.N // factor
    coarse.times = grid(stack.T, coarse.N)
    if not stack.tied:
        kept = [n for n in range(stack.N) if (n // stack.kinds) % factor == 0]
        if factor > 1 and _owns_readout(stack):
            raise ValueError(
                f"the last {type(stack.block(stack.N - 1)).__name__} owns the readout: it cannot be left out"
            )
        coarse.blocks = nn.ModuleList(stack.blocks[n] for n in kept)
    if stack.step_sizes is not None:
        coarse.step_sizes = _Summed(stack.step_sizes, stack.kinds, factor)  # type: ignore[assignment]
    return coarse


def solved(stack: FlowStack, solver: Solver | str, per_cycle: int = 4) -> NeuralODE:
    """The flow that the stack steps along, integrated by a solver; kinds of block are added up.

    Args:
        stack: of blocks that know their vector field.
        solver: the name of a method that fixed steps can take gets `per_cycle` equal steps for each step of the stack
            (of each kind), which end where the weights jump; any other solver is taken as it is.
        per_cycle: see there.

    Raises:
        ValueError: a block without a vector field.
    """
    field = StackField(stack)
    if isinstance(solver, str) and not isinstance(resolve_solver(solver), Adaptive):
        solver = FixedStep(solver, grid_constructor=_within(field.edges, per_cycle), perturb=True)
    return StackODE(field, solver)


class StackField(nn.Module):
    """The vector field of a stack: at time t that of the block (of the sum of the blocks, one of each kind) whose step
    covers t. Piecewise in time where the blocks' weights are their own.

    Attributes:
        edges: where the steps start and end.
        jump_times: edges inside.

    Raises:
        ValueError: a block without a vector field, or one that needs more inputs.
    """

    def __init__(self, stack: FlowStack):
        super().__init__()
        for n in range(stack.N):
            if not has_field(stack.block(n)) or stack.block(n).needs:
                name = type(getattr(stack.block(n), "template", stack.block(n))).__name__
                raise ValueError(f"{name} is a step without a vector field of (t, x) that a solver could take")
        self.stack = stack
        sizes = step_sizes(stack).unflatten(0, (-1, stack.kinds))  # [cycles, kinds]
        cycles = sizes.sum(1)
        self.shares: list[list[float]] = (sizes / cycles[:, None]).tolist()
        self.edges: list[float] = [0.0, *cycles.cumsum(0).tolist()]
        self.jump_times = () if stack.tied else tuple(self.edges[1:-1])

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """dx/dt at the lifted state x; t a float or []. Waits for the device: it must know which block to ask."""
        cycle = sum(bool(torch.as_tensor(t) >= edge) for edge in self.edges[1:-1])
        total = torch.zeros_like(x)
        for kind, share in enumerate(self.shares[cycle]):
            _, _, call = bound(self.stack.block(cycle * self.stack.kinds + kind), torch.as_tensor(t, device=x.device))
            total = total + share * call("field", t, x)
        return total


class StackODE(NeuralODE):
    """A stack's flow as a neural ODE on the stack's input."""

    def __init__(self, field: StackField, solver: Solver | str):
        super().__init__(field, solver, t0=0.0, t1=field.edges[-1])
        self.stack = field.stack

    def forward(self, x: Tensor, ts: Tensor | None = None, context: Any = None) -> Tensor:
        state = super().forward(self.stack.block(0).lift(x), ts)
        return self.stack.block(self.stack.N - 1).readout(state)


class _Summed(nn.Module):
    """Learned step sizes added up over `factor` cycles."""

    def __init__(self, sizes: nn.Module, kinds: int, factor: int):
        super().__init__()
        self.sizes = sizes
        self.kinds = kinds
        self.factor = factor

    def forward(self, dtype: torch.dtype) -> Tensor:
        return self.sizes(dtype).unflatten(0, (-1, self.factor, self.kinds)).sum(1).flatten()


def with_solver(ode: NeuralODE, solver: Solver | str, h: float | None = None) -> NeuralODE:
    """The neural ODE solved by another solver; one that takes fixed steps by its name gets steps of h at most."""
    if isinstance(solver, str) and solver in TABLEAUS and not isinstance(resolve_solver(solver), Adaptive):
        solver = FixedStep(solver, steps=max(STEPS, math.ceil(abs(ode.t1 - ode.t0) / (h or math.inf) - 1e-9)))
    other = copy.copy(ode)
    other.solver = resolve_solver(solver)
    return other


def _stepped(solver: Solver, factor: float) -> Solver:
    if isinstance(solver, Adaptive):
        method = one_step_method(solver.method) if isinstance(solver.method, str) else solver.method
        if method is None:
            raise ValueError(
                f"{solver.method} changes its order on the way: no tolerance makes its steps {factor:g} times"
            )
        change = factor**method.order
        return dataclasses.replace(solver, rtol=solver.rtol * change, atol=solver.atol * change)
    if not isinstance(solver, (FixedStep, Adams)) or solver.grid_constructor is not None:
        raise ValueError(f"{type(solver).__name__} as it is set has no step size to change; take FixedStep(steps=...)")
    if solver.step_size is not None:
        return dataclasses.replace(solver, step_size=solver.step_size * factor)
    steps = (solver.steps or 1) / factor
    if steps < 1 or steps != round(steps):
        raise ValueError(f"{solver.steps or 1} steps cannot be made {factor:g} times as large; use a multiple of it")
    return dataclasses.replace(solver, steps=round(steps))


def _within(edges: list[float], per_cycle: int) -> Callable[..., Tensor]:
    """A grid of `per_cycle` equal steps between any two edges."""
    points = [a + (b - a) * i / per_cycle for a, b in itertools.pairwise(edges) for i in range(per_cycle)]
    return lambda field, y0, ts: torch.tensor([*points, edges[-1]], dtype=ts.dtype, device=ts.device)


def _owns_readout(stack: FlowStack) -> bool:
    first, last = stack.block(0), stack.block(stack.N - 1)
    shapes = [{name: p.shape for name, p in block.named_parameters()} for block in (first, last)]
    return shapes[0] != shapes[1] and stack.kinds == 1 and not isinstance(first, VaryingBlock)


def _whole(factor: float) -> int:
    if factor < 1 or not math.isclose(factor, round(factor), rel_tol=1e-9):
        raise ValueError(
            f"steps can be 2, 3, 4, ... or 1/2, 1/3, 1/4, ... times as large, got {factor:g} or its inverse"
        )
    return round(factor)
