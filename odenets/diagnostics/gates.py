"""The gates and step sizes of a trained stack."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from odenets.blocks import Delta
from odenets.diagnostics.result import Result, host
from odenets.diagnostics.trace import trace
from odenets.models import FlowStack


@dataclass
class Histogram(Result):
    """How often values fall between edges [bins+1]: counts [bins]; with their mean, smallest and largest."""

    edges: Tensor
    counts: Tensor
    mean: float
    low: float
    high: float


@dataclass
class LayerGates(Result):
    """One delta block's gates over the tokens of a batch.

    Attributes:
        layer: which step.
        beta: the gates beta = 1 - R(-h rate), on edges from 0 to 2 or wider.
        step: the step sizes h rate of the flow along k.
        reflecting: the share of tokens with beta > 1, which overshoot their target; no exact flow does.
    """

    layer: int
    beta: Histogram
    step: Histogram
    reflecting: float


@torch.no_grad()
def gates(stack: FlowStack, x: Tensor, context: Mapping[str, Tensor] | None = None, bins: int = 20) -> list[LayerGates]:
    """Gates and step sizes of every delta block of the stack, for an input x [B, ...].

    Raises:
        ValueError: no delta block in it.
    """
    found = []
    for step in trace(stack, x, context):
        if isinstance(step.block, Delta):
            beta = host(step.call("gate", step.t, step.state, step.h)).double().flatten()
            rate = host(step.call("coefficients", step.t, step.state).rate).double().flatten()
            share = float((beta > 1).double().mean())
            beta_histogram = histogram(beta, bins, min(0.0, float(beta.min())), max(2.0, float(beta.max())))
            found.append(LayerGates(step.index, beta_histogram, histogram(step.h * rate, bins), share))
    if not found:
        raise ValueError(f"{type(stack.block(0)).__name__} has no delta gate; take block=delta")
    return found


def histogram(values: Tensor, bins: int = 20, low: float | None = None, high: float | None = None) -> Histogram:
    """Counts of values [M] in `bins` equal bins from low to high, by default the smallest and the largest value."""
    values = host(values).double().flatten()
    smallest, largest = float(values.min()), float(values.max())
    low, high = smallest if low is None else low, largest if high is None else high
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    counts = torch.histogram(values, edges)[0].long()
    return Histogram(edges, counts, float(values.mean()), smallest, largest)


@torch.no_grad()
def step_sizes(stack: FlowStack) -> Tensor:
    """h_n of every step, [N]: T/N, or what was learned."""
    like = torch.empty(0, dtype=torch.float64, device=next(iter(stack.parameters()), torch.empty(0)).device)
    return torch.tensor([float(h) for _, h in stack.schedule(like)], dtype=torch.float64)
