"""Stacks of streams: keep what the branches gave, and compute only the mixing, reading and writing a second time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from odenets.blocks import Block
from odenets.blocks.streams import StreamBlock
from odenets.models.block_step import BlockStep
from odenets.models.gradients.base import StackGradient, taken
from odenets.models.gradients.surroundings import autocast_of
from odenets.models.gradients.tape import Kept
from odenets.solvers.once import differentiable_once


@dataclass(frozen=True)
class Selective(StackGradient):
    """Selective recomputation (mHC, arXiv:2512.24880, section 4.3): the state [n, C] is kept before every `every`-th
    step and the branch's output [C] of each; the operators on streams are computed again, a branch never.

    A branch is differentiated by autograd as anywhere else: its own activations stay, its dropout is drawn once. Kept
    besides: n C N/every + n C every numbers per token for N steps, and C N of the outputs. Exact.

    Args:
        every: None takes sqrt(n N / (n + 2)), the least memory.
    """

    every: int | None = None

    name: ClassVar[str] = "selective"

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(f"Selective expects every >= 1 steps, got {self.every}")

    def check(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            if not isinstance(block, StreamBlock):
                raise ValueError(
                    "gradient=selective needs blocks on streams (hyper_connections, manifold_hyper_connections), got "
                    f"{type(block).__name__}; take one of those, or gradient=checkpoint"
                )
            if block.step != "frozen":
                raise ValueError(
                    f"gradient=selective needs step=frozen, got {block.step!r}: that evaluates the branch inside the "
                    "operators on streams; take gradient=checkpoint"
                )

    @torch.compiler.disable
    def run(self, steps: Iterable[BlockStep], state: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return taken(steps, state)
        steps = list(steps)
        streams = state.shape[-2]
        every = self.every or max(1, round(math.sqrt(streams * len(steps) / (streams + 2))))
        operators = _Operators(steps, every, state.device)
        for n, step in enumerate(steps):
            u = _Read.apply(operators, n, state, *step.tensors())
            f = step.call("branch", u)
            state = _Write.apply(operators, n, state, u, f, *step.tensors())
        return state


class _Operators:
    """The operators on streams of all steps, and the states they act on."""

    def __init__(self, steps: Sequence[BlockStep], every: int, device: torch.device) -> None:
        self.steps, self.every = steps, every
        self.autocast = autocast_of(device)
        self.kept: dict[int, Kept] = {}
        self.outputs: list[Kept] = []
        self.segment: dict[int, Tensor] = {}
        self.open: Any = None

    def read(self, n: int, x: Tensor) -> Tensor:
        if n % self.every == 0:
            self.kept[n] = Kept(x)
        with self.autocast():
            return self.steps[n].call("aggregate", x)[2]

    def write(self, n: int, x: Tensor, f: Tensor) -> Tensor:
        self.outputs.append(Kept(f))
        return self.step(n, x, f)[1]

    def step(self, n: int, x: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
        """The branch's input and the state after step n, for the branch's output f."""
        with self.autocast():
            m, p, u = self.steps[n].call("aggregate", x)
            return u, self.steps[n].call("expand", x, m, p, f)

    def state(self, n: int) -> Tensor:
        """The state before step n; those of its segment are computed together and given out from the last."""
        if n not in self.segment:
            start = n - n % self.every
            x = self.kept[start].get()
            self.segment = {start: x}
            for m in range(start, n):
                x = self.step(m, x, self.outputs[m].get())[1]
                self.segment[m + 1] = x
        return self.segment.pop(n)

    def pull_back_write(self, n: int, gradient: Tensor) -> Tensor:
        """The gradient with respect to the branch's output; the rest waits for what the branch makes of it."""
        x = self.state(n).detach().requires_grad_()
        f = self.outputs[n].get().detach().requires_grad_()
        with torch.enable_grad():
            u, new = self.step(n, x, f)
        self.open = (x, u, new, gradient)
        return torch.autograd.grad(new, f, gradient, retain_graph=True)[0]

    def pull_back_read(self, n: int, gradient: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        (x, u, new, after), self.open = self.open, None
        return torch.autograd.grad([new, u], [x, *tensors], [after, gradient], allow_unused=True, retain_graph=True)


class _Read(torch.autograd.Function):
    """State before a step -> input of its branch; gives back the state's whole gradient."""

    @staticmethod
    def forward(ctx: Any, operators: _Operators, n: int, x: Tensor, *tensors: Tensor) -> Tensor:
        ctx.operators, ctx.n, ctx.tensors = operators, n, tensors
        return operators.read(n, x)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return None, None, *ctx.operators.pull_back_read(ctx.n, gradient, ctx.tensors)


class _Write(torch.autograd.Function):
    """State before a step and output of its branch -> state after it. The branch's input is an argument so that
    `_Read` is reached, last, whatever the branch does with it."""

    @staticmethod
    def forward(ctx: Any, operators: _Operators, n: int, x: Tensor, u: Tensor, f: Tensor, *tensors: Tensor) -> Tensor:
        ctx.operators, ctx.n, ctx.count = operators, n, len(tensors)
        ctx.like = u.shape, u.dtype
        return operators.write(n, x, f)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, gradient: Tensor) -> Any:
        shape, dtype = ctx.like
        nothing = gradient.new_zeros((), dtype=dtype).expand(shape)
        return None, None, None, nothing, ctx.operators.pull_back_write(ctx.n, gradient), *[None] * ctx.count
