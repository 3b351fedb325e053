"""Blocks whose parameters are read off as functions of time."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from odenets.blocks import Block
from odenets.fields import TimeVarying
from odenets.fields.time import as_time
from odenets.flows import Scheme, resolve_scheme


class VaryingBlock(Block):
    """A block whose every parameter is `W(t) = sum_j B_j(t) W_j`, read at the start of the step (see `TimeVarying`).

    `lift` and `readout` use the parameters at times 0 and T.

    Args:
        block: a factory of blocks.
        basis: "piecewise", "spline" or "fourier".
        nodes: number of coefficients.
        T: end of the time interval.
    """

    def __init__(self, block: Callable[[], Block], basis: str, nodes: int, T: float):
        super().__init__()
        self.varying = TimeVarying(block, basis, nodes, T)
        self.T = T
        self._bind()

    @property
    def template(self) -> Any:
        """The block that the parameters at time t are put into."""
        return self.varying.template

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.template.needs

    def forward(self, t: Tensor | float, x: Any, h: Tensor | float, **inputs: Tensor) -> Any:
        t = as_time(t, _leaf(x))
        if t.dim():
            raise ValueError(
                f"a block with parameters that vary in time takes one time for all samples, got {list(t.shape)}"
            )
        return functional_call(self.template, self.varying.weights(t), (t, x, h), inputs)

    def lift(self, x: Tensor) -> Any:
        return self._call(self._ends[0], 0.0, x, x)

    def readout(self, state: Any) -> Tensor:
        return self._call(self._ends[1], self.T, _leaf(state), state)

    def call(self, method: str, t: Tensor, *arguments: Any) -> Any:
        """Another method of the template, `method(t, *arguments)`, with the parameters at time t (0-dim)."""
        weights = {f"block.{name}": w for name, w in self.varying.weights(as_time(t, _leaf(arguments[0]))).items()}
        return functional_call(Method(self.template, method), weights, (t, *arguments))

    def _bind(self) -> None:
        # In a tuple: modules that hold the template a second time must not be children.
        self._ends = (Method(self.template, "lift"), Method(self.template, "readout"))

    def _call(self, method: nn.Module, t: float, like: Tensor, argument: Any) -> Any:
        weights = {f"block.{name}": w for name, w in self.varying.weights(as_time(t, like)).items()}
        return functional_call(method, weights, (argument,))


def _leaf(state: Any) -> Tensor:
    """The first tensor of a state that may be a tuple of tensors or of tuples."""
    return _leaf(state[0]) if isinstance(state, tuple) else state


class Method(nn.Module):
    """A method of a block as a module's forward, which is all that `functional_call` calls."""

    def __init__(self, block: Block, method: str):
        super().__init__()
        self.block = block
        self.method = method

    def forward(self, *arguments: Any) -> Any:
        return getattr(self.block, self.method)(*arguments)


def interpolated(first: Block, second: Block, weight: float) -> dict[str, Tensor]:
    """The parameters `(1 - weight) first + weight second` by name, with gradients to both.

    Raises:
        ValueError: the two blocks' parameters have different names or shapes.
    """
    one, other = dict(first.named_parameters()), dict(second.named_parameters())
    if {k: p.shape for k, p in one.items()} != {k: p.shape for k, p in other.items()}:
        raise ValueError(
            f"linear interpolation needs blocks with the same parameters, got {type(first).__name__} and "
            f"{type(second).__name__} that differ; use interpolation='constant'"
        )
    return {name: torch.lerp(p, other[name], weight) for name, p in one.items()}


def rescheme(block: Block, name: str) -> Block:
    """The block with another scheme, its parameters shared.

    Raises:
        ValueError: the block has no scheme to change, or the scheme is unknown.
    """
    if isinstance(block, VaryingBlock):
        clone = _detached(block)
        clone.varying = _detached(block.varying)
        clone.varying.template = rescheme(block.template, name)
        clone._bind()
        return clone
    if callable(getattr(block, "with_scheme", None)):
        return block.with_scheme(name)  # type: ignore[operator]
    if not isinstance(getattr(block, "scheme", None), Scheme):
        raise ValueError(
            f"{type(block).__name__} has no scheme to change to {name!r}: without a linear part every frozen step is "
            "forward Euler; take a block with a linear part"
        )
    clone = _detached(block)
    clone.scheme = resolve_scheme(name)
    return clone


def _detached(module: Any) -> Any:
    """A copy of the module's own attributes; parameters and children are shared."""
    clone = copy.copy(module)
    clone._modules = dict(module._modules)
    clone._parameters = dict(module._parameters)
    return clone
