"""A stack's steps as autograd nodes that keep no graph: what a backward pass needs is rebuilt step by step.

Every step is one node, so that its parameters' gradients arrive one step after the other. A node evaluates its step
without recording. In the backward pass, from the last step to the first, a `Memory` gives the state before the step
again, the step is evaluated there with a graph of its own, and that graph is used and dropped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from odenets.models.block_step import BlockStep
from odenets.models.compiled_step import walked_again
from odenets.models.gradients.base import StackGradient, taken
from odenets.models.gradients.surroundings import BuffersKept, RandomState, autocast_of, replayed
from odenets.solvers.once import differentiable_once

Again = Callable[[int, Any], Any]


class Memory(ABC):
    """What one forward pass keeps of its states, and how it gets back the others."""

    @abstractmethod
    def advance(self, n: int, step: BlockStep, state: Any) -> Any:
        """The state after step n, run without a graph; keeps what it will need."""

    @abstractmethod
    def rebuild(self, n: int, step: BlockStep, after: Any, again: Again) -> Any:
        """The state before step n, given the one after it (None unless `needs_after`).

        Called for n = N - 1, .., 0 in turn, and from N - 1 anew if a graph is used twice. `again(m, state)` takes step
        m as in the forward pass.
        """

    def evaluate(self, n: int, step: BlockStep, before: Any) -> Any:
        """The state after step n with a graph, for its gradient."""
        return step(before)


class TapedGradient(StackGradient):
    """A gradient method with a `Memory`."""

    needs_after: ClassVar[bool] = True  # whether the memory rebuilds a state from the one after it

    @abstractmethod
    def memory(self, count: int) -> Memory:
        """The memory of one forward pass of so many steps."""

    @torch.compiler.disable
    def run(self, steps: Iterable[BlockStep], state: Any) -> Any:
        if not torch.is_grad_enabled():
            return taken(steps, state)
        steps = list(steps)
        return _Tape(steps, self.memory(len(steps)), self.needs_after).run(state)


class Kept:
    """A state without its graph, refused if it has been changed in place since."""

    def __init__(self, state: Any) -> None:
        leaves, self.spec = pytree.tree_flatten(state)
        # detached: an output that the tape held on to would hold the tape
        self.leaves = [leaf.detach() for leaf in leaves]
        self.versions = [leaf._version for leaf in self.leaves]

    def get(self) -> Any:
        if any(leaf._version != version for leaf, version in zip(self.leaves, self.versions)):
            raise RuntimeError(
                "a state of the stack was modified in place after the forward pass, which this gradient rebuilds the "
                "others from: work on a copy, or use gradient='autograd'"
            )
        return pytree.tree_unflatten(self.leaves, self.spec)


class _Tape:
    def __init__(self, steps: Sequence[BlockStep], memory: Memory, needs_after: bool) -> None:
        self.steps, self.memory, self.needs_after = steps, memory, needs_after
        self.specs: list[Any] = []
        self.random: list[RandomState | None] = []
        self.last: Kept | None = None
        self.after: Any = None

    def run(self, state: Any) -> Any:
        first = pytree.tree_leaves(state)[0]
        self.device = first.device
        self.autocast = autocast_of(first.device)
        for n, step in enumerate(self.steps):
            leaves, spec = pytree.tree_flatten(state)
            self.specs.append(spec)
            found = _Node.apply(self, n, len(leaves), *leaves, *step.tensors())
            state = pytree.tree_unflatten(found, self.specs.pop())
        return state

    def advance(self, n: int, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
        random = RandomState(self.device)
        with self.autocast():
            new = self.memory.advance(n, self.steps[n], pytree.tree_unflatten(leaves, self.specs.pop()))
        self.random.append(random if random.moved() else None)
        found, spec = pytree.tree_flatten(new)
        self.specs.append(spec)
        if self.needs_after and n == len(self.steps) - 1:
            self.last = Kept(new)
        return tuple(found)

    def again(self, n: int, state: Any) -> Any:
        step = self.steps[n]
        with BuffersKept([step.block]), replayed(self.random[n]):
            return step(state)

    def pull_back(self, n: int, gradients: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients with respect to the state before step n and to `tensors`, from those to the state after it."""
        step = self.steps[n]
        if n == len(self.steps) - 1:
            self.after = self.last.get() if self.last is not None else None
        with self.autocast(), BuffersKept([step.block]), replayed(self.random[n]):
            with replayed(self.random[n]):
                before = self.memory.rebuild(n, step, self.after, self.again)
            self.after = before if self.needs_after and n else None
            leaves, spec = pytree.tree_flatten(before)
            leaves = [leaf.detach().requires_grad_() for leaf in leaves]
            with torch.enable_grad():
                new = pytree.tree_leaves(self.memory.evaluate(n, step, pytree.tree_unflatten(leaves, spec)))
        pairs = [(x, g) for x, g in zip(new, gradients) if x.requires_grad]
        # weights formed once for several steps belong to several graphs
        with walked_again():
            found = torch.autograd.grad(
                [x for x, _ in pairs], [*leaves, *tensors], [g for _, g in pairs], allow_unused=True, retain_graph=True
            )
        return list(found)


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tape: _Tape, n: int, count: int, *tensors: Tensor) -> Any:
        ctx.tape, ctx.n, ctx.count = tape, n, count
        ctx.tensors = tensors[count:]
        return tape.advance(n, tensors[:count])

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, None, None, *ctx.tape.pull_back(ctx.n, gradients, ctx.tensors)
