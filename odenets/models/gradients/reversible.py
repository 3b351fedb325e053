"""Keep the last state and undo the steps: memory does not grow with depth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from odenets.blocks import Block, ReversibleBlock
from odenets.models.block_step import BlockStep
from odenets.models.gradients.surroundings import RandomState, replayed
from odenets.models.gradients.tape import Again, Kept, Memory, TapedGradient
from odenets.solvers.once import differentiable_once


@dataclass(frozen=True)
class Reversible(TapedGradient):
    """Memory D + a for blocks that undo their steps in closed form, for one more evaluation of their branches.

    Gomez, Ren, Urtasun, Grosse, "The reversible residual network" (2017, arXiv:1707.04585), algorithm 1: the branches
    are evaluated once for the inverse and for the gradient. The states are rebuilt up to rounding, which the inverse
    flow amplifies (momentum: by 1/gamma^h a step): where that is too much, keep one every few steps.

    Args:
        every: also keep the state before every so many steps; None keeps the last one only.
    """

    every: int | None = None

    name: ClassVar[str] = "reversible"

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(f"Reversible expects every >= 1 steps, got {self.every}")

    def check(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            if not isinstance(block, ReversibleBlock):
                raise ValueError(
                    "gradient=reversible needs blocks that can be undone (momentum, revnet, leapfrog, hamiltonian), "
                    f"got {type(block).__name__}; take one of those, or gradient=checkpoint"
                )
            if getattr(block, "gamma", None) == 0:
                raise ValueError("gradient=reversible needs Momentum with gamma > 0: gamma = 0 is the residual block")

    def memory(self, count: int) -> Memory:
        return _Inverses(count, self.every)


class _Inverses(Memory):
    def __init__(self, count: int, every: int | None) -> None:
        self.every = every or count
        self.kept: dict[int, Kept] = {}
        self.random: dict[int, list[RandomState]] = {}
        self.evaluated: list[tuple[Tensor, Tensor]] = []

    def advance(self, n: int, step: BlockStep, state: Any) -> Any:
        if n and n % self.every == 0:
            self.kept[n] = Kept(state)
        device = pytree.tree_leaves(state)[0].device
        drawn: list[RandomState] = []

        def noted(branch: Callable[..., Tensor], t: Any, z: Tensor) -> Tensor:
            drawn.append(RandomState(device))
            return branch(t, z)

        before = RandomState(device)
        with branches_by(step, noted):
            new = step(state)
        if before.moved():
            self.random[n] = drawn
        return new

    def rebuild(self, n: int, step: BlockStep, after: Any, again: Again) -> Any:
        """The inverse; what its branches computed is kept for `evaluate`, which needs the same in opposite order."""
        if n in self.kept:
            return self.kept[n].get()
        self.evaluated = []
        random = list(self.random.get(n, ()))

        def recorded(branch: Callable[..., Tensor], t: Any, z: Tensor) -> Tensor:
            z = z.detach().requires_grad_()
            with replayed(random.pop() if random else None):
                value = branch(t, z)
            self.evaluated.append((z, value))
            return value.detach()

        with torch.enable_grad(), branches_by(step, recorded):
            before = step.call("inverse", after)
        return pytree.tree_map(torch.Tensor.detach, before)

    def evaluate(self, n: int, step: BlockStep, before: Any) -> Any:
        evaluated, self.evaluated = self.evaluated, []
        if not evaluated:
            return step(before)
        tensors = step.tensors()

        def found(branch: Callable[..., Tensor], t: Any, z: Tensor) -> Tensor:
            point, value = evaluated.pop()
            return _Evaluated.apply(point, value, tensors, z, *tensors) if value.requires_grad else value

        with branches_by(step, found):
            return step(before)


class _Evaluated(torch.autograd.Function):
    """A branch's value that has been computed already, at the same point up to rounding."""

    @staticmethod
    def forward(ctx: Any, point: Tensor, value: Tensor, tensors: Sequence[Tensor], z: Tensor, *own: Tensor) -> Tensor:
        ctx.point, ctx.value, ctx.tensors = point, value, tensors
        return value.detach()

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, gradient: Tensor) -> Any:
        found = torch.autograd.grad(
            ctx.value, [ctx.point, *ctx.tensors], gradient, allow_unused=True, retain_graph=True
        )
        return None, None, None, *found


@contextmanager
def branches_by(step: BlockStep, by: Callable[..., Tensor]) -> Iterator[None]:
    """Evaluate every branch f(t, z) of the step's block as by(f, t, z) meanwhile."""
    block = step.template
    names = block.branches if isinstance(block, ReversibleBlock) else ()
    modules: list[nn.Module] = list({id(m): m for m in (getattr(block, name) for name in names)}.values())
    for module in modules:
        branch = module.forward
        module.forward = lambda t, z, branch=branch: by(branch, t, z)
    try:
        yield
    finally:
        for module in modules:
            del module.forward
