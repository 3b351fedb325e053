"""A stack of blocks over an interval of integration time."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from odenets.blocks import Block
from odenets.fields.basis import BASES, grid
from odenets.models.block_step import BlockStep, template
from odenets.models.compiled_step import check_compile, check_gradient, compiled_stack
from odenets.models.gradients import StackGradient, resolve_stack_gradient
from odenets.models.step_sizes import make_step_sizes
from odenets.models.varying_block import VaryingBlock, interpolated, rescheme
from odenets.solvers import Gradient

PARAMETERS = ("per_step", "tied", *BASES)
Factory = Callable[..., Block]


class FlowStack(nn.Module):
    """N blocks over [0, T]: block n steps from t_n = n h to t_n + h with h = T/N. Depth is integration time.

    With several kinds of block (attention and MLP), step n is of kind n mod K: the Lie splitting of the sum of their
    flows, a cycle of K steps after the other.

    Args:
        block: a factory without arguments that returns a Block; or several, one per kind.
        T: integration time.
        N: number of steps; a multiple of the number of kinds.
        tied: short for parameters="tied".
        branches: factories of the branches, one per kind (a mapping's keys only name them): kind k is made by
            `block(branch=branches[k]())`. None if the factories need no argument.
        parameters: "per_step": each step has its own: the flow's weights are piecewise constant in time; "tied": one
            block per kind, a flow with constant weights; "piecewise", "spline" or "fourier": every parameter of a
            kind is a function of time with `nodes` coefficients, read at t_n.
        nodes: coefficients of a function of time.
        steps: "fixed": h = T/N; "free": every h_n is learned, positive (they start at T/N); "sum_to_T": learned with
            their sum fixed. A block's time t_n is the sum of the steps before it.
        gradient: how the stack is differentiated (see `odenets.models.gradients`): "autograd", or with less memory
            "checkpoint", "recursive", "reversible", "downdate", "selective", or one of their classes with its settings.
        compile: "step": the steps are compiled, one program for each kind of block whatever the depth; "stack": the whole
            stack is, its steps unrolled (compiling takes as long as it is deep); "cuda_graph": it is recorded as CUDA
            graphs, forward and backward, for steps that take less time than their launches; False: none of them.

    Attributes:
        times: t_0 .. t_N of equal steps (learned ones: `schedule`).

    Raises:
        ValueError: N < 1 or no multiple of the number of kinds, T not finite and > 0, an unknown `parameters`, `steps`,
            `compile` or `gradient`, blocks that the gradient cannot be used with, or `block` is not a factory of Blocks.
    """

    def __init__(
        self,
        block: Factory | Sequence[Factory],
        T: float = 1.0,
        N: int = 8,
        tied: bool = False,
        branches: Sequence | Mapping | None = None,
        parameters: str = "per_step",
        nodes: int = 4,
        steps: Literal["fixed", "free", "sum_to_T"] = "fixed",
        gradient: StackGradient | Gradient | str = "autograd",
        compile: bool | str = False,
    ):
        super().__init__()
        if N < 1:
            raise ValueError(f"FlowStack expects N >= 1 steps, got {N}")
        if not (0 < T < math.inf):
            raise ValueError(f"FlowStack expects a finite integration time T > 0, got {T}")
        check_compile(compile)
        parameters = "tied" if tied else parameters
        if parameters not in PARAMETERS:
            raise ValueError(f"parameters= takes one of {PARAMETERS}, got {parameters!r}")
        factories = _factories(block, branches)
        if N % len(factories) != 0:
            raise ValueError(
                f"FlowStack expects N to be a multiple of its {len(factories)} kinds of block, got N={N}; "
                "a step of each kind makes one cycle"
            )
        self.T = T
        self.N = N
        self.kinds = len(factories)
        self.factor = 1  # refinement: how many steps are made of each trained one
        self.interpolation = "constant"
        self.parameters_in_time = parameters
        self.times = grid(T, N)
        self.step_sizes = make_step_sizes(steps, T, N)
        if parameters in BASES:
            placed = [_placed(f, k, self.kinds) for k, f in enumerate(factories)]
            self.blocks = nn.ModuleList(VaryingBlock(f, parameters, nodes, T) for f in placed)
        else:
            count = self.kinds if parameters == "tied" else N
            self.blocks = nn.ModuleList(_placed(factories[n % self.kinds], n, count)() for n in range(count))
        self.gradient = resolve_stack_gradient(gradient)
        self.compiled = compile
        check_gradient(compile, self.gradient.name)
        self.gradient.check([template(block) for block in self.blocks])

    @property
    def h(self) -> float:
        """The step size T/N; what learned step sizes start from."""
        return self.T / self.N

    @property
    def tied(self) -> bool:
        """Whether the steps of a kind share their parameters."""
        return len(self.blocks) == self.kinds

    def block(self, n: int) -> Block:
        """The block that makes step n. In a refined stack each makes as many steps as the factor says."""
        kind = n % self.kinds
        cycle = 0 if self.tied else n // self.kinds // self.factor
        block = self.blocks[cycle * self.kinds + kind]
        assert isinstance(block, Block)
        return block

    def refine(self, factor: int, interpolation: Literal["constant", "linear"] = "constant") -> "FlowStack":
        """The same flow at h / factor: N * factor steps over the same T with these same blocks (parameters shared).

        A stack that has learned a flow gives nearly the same output, the closer the larger the factor; one that has
        learned only its discrete map does not. Parameters per step are read as functions of time: piecewise constant,
        or linear between the values that the trained steps had at their t_n (constant after the last). Kinds go on
        alternating, each with steps h / factor. Refined twice is refined by the product.

        Raises:
            ValueError: factor < 1 or an unknown interpolation.
        """
        if factor < 1:
            raise ValueError(f"refine expects a factor >= 1, got {factor}")
        if interpolation not in ("constant", "linear"):
            raise ValueError(f"interpolation= takes 'constant' or 'linear', got {interpolation!r}")
        finer = copy.copy(self)
        finer.N = self.N * factor
        finer.factor = self.factor * factor
        finer.interpolation = interpolation
        finer.times = grid(self.T, finer.N)
        return finer

    def with_scheme(self, name: str) -> "FlowStack":
        """The same flow, every block's step taken by another scheme (parameters shared).

        Raises:
            ValueError: an unknown scheme, or a block that has none.
        """
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.blocks = nn.ModuleList(rescheme(self._as_block(b), name) for b in self.blocks)
        return other

    def forward(self, x: Tensor, context: Mapping[str, Tensor] | None = None) -> Tensor:
        """x of any shape the blocks take. Returns the output at time T, with x's shape.

        context: further inputs by name, such as {"ids": ids}; every block is passed those it `needs`.

        Raises:
            ValueError: context lacks what a block needs, or the stack is to be compiled and cannot be.
        """
        if self.compiled in ("stack", "cuda_graph") and not torch.compiler.is_compiling():
            return compiled_stack(self, x, context, str(self.compiled))
        return self.run(x, context)

    def run(self, x: Tensor, context: Mapping[str, Tensor] | None = None) -> Tensor:
        """As `forward`, step by step."""
        state = self.gradient.run(self.steps(x, context), self.block(0).lift(x))
        return self.block(self.N - 1).readout(state)

    def trajectory(self, x: Tensor, context: Mapping[str, Tensor] | None = None) -> Tensor:
        """The states [N+1, *state.shape] at t_0 .. t_N, the lifted input first; mostly x's shape.

        Of states that are tuples of tensors, the readouts, with x's shape.
        """
        states: list[Any] = [self.block(0).lift(x)]
        for step in self.steps(x, context):
            states.append(step(states[-1]))
        if not isinstance(states[0], Tensor):
            states = [self.block(max(n - 1, 0)).readout(state) for n, state in enumerate(states)]
        return torch.stack(states)

    def steps(self, x: Tensor, context: Mapping[str, Tensor] | None = None) -> Iterator[BlockStep]:
        """Every step in turn as a function of the state alone: `forward` is lift, all of these, readout."""
        for n, (t, h) in enumerate(self.schedule(x)):
            yield BlockStep(self.block(n), t, h, self._inputs(n, context), self._weights(n), self.compiled == "step")

    def schedule(self, x: Tensor) -> list[tuple[Tensor, Tensor | float]]:
        """(t_n, h_n) of every step, for an input x: the times 0-dim on its device, equal step sizes as floats."""
        # Filled on the device, one per step: exact in every dtype, nothing to wait for. Never below float32.
        dtype = torch.promote_types(x.dtype, torch.float32)
        if self.step_sizes is None:
            return [(torch.full((), t, dtype=dtype, device=x.device), self.h) for t in self.times[:-1]]
        trained = self.step_sizes(dtype).unflatten(0, (-1, self.kinds))  # [cycles, kinds]
        sizes = (trained / self.factor).repeat_interleave(self.factor, dim=0).flatten()  # [N]
        return list(zip((sizes.cumsum(0) - sizes).unbind(), sizes.unbind()))

    def _weights(self, n: int) -> dict[str, Tensor] | None:
        """Parameters between those of the block of step n and of the next of its kind; None: its own."""
        if self.interpolation == "constant" or self.tied:
            return None
        cycle, part = divmod(n // self.kinds, self.factor)
        last = cycle == len(self.blocks) // self.kinds - 1
        if part == 0 or last:
            return None
        return interpolated(self.block(n), self.block(n + self.factor * self.kinds), part / self.factor)

    def _inputs(self, n: int, context: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        block, given = self.block(n), context or {}
        missing = [name for name in block.needs if name not in given]
        if missing:
            raise ValueError(
                f"{type(block).__name__} needs {missing}: call the stack with context={{{missing[0]!r}: ...}}"
            )
        return {name: given[name] for name in block.needs}

    def _as_block(self, module: nn.Module) -> Block:
        assert isinstance(module, Block)
        return module

    def extra_repr(self) -> str:
        return f"T={self.T:g}, N={self.N}, h={self.h:g}, tied={self.tied}, gradient={self.gradient}"


def _placed(factory: Factory, index: int, count: int) -> Factory:
    """The factory of block number index of count, which is told so."""

    def make() -> Block:
        block = factory()
        if not isinstance(block, Block):
            raise ValueError(
                f"FlowStack expects the factory to return a Block, got {type(block).__name__}; derive it from Block"
            )
        block.place(index, count)
        return block

    return make


def _factories(block: Factory | Sequence[Factory], branches: Sequence | Mapping | None) -> list[Factory]:
    factories: list[Any] = list(block) if isinstance(block, (list, tuple)) else [block]
    for factory in factories:
        if isinstance(factory, nn.Module) or not callable(factory):
            raise ValueError(
                f"FlowStack expects a factory such as `lambda: Residual(branch())`, got {type(factory).__name__}; "
                "each step needs a block of its own"
            )
    if branches is None:
        return factories
    made = list(branches.values() if isinstance(branches, Mapping) else branches)
    if len(factories) != 1 or not made:
        raise ValueError(
            f"branches= goes with one block factory, got {len(factories)} factories and {len(made)} branches"
        )
    return [lambda branch=branch: factories[0](branch=branch()) for branch in made]
