"""Gains over depth: of the signal, of the gradient, and of products of stream mixings."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from odenets.blocks.streams import StreamBlock
from odenets.diagnostics.jacobian import flatten
from odenets.diagnostics.result import Result, host
from odenets.diagnostics.trace import trace
from odenets.models import FlowStack


@dataclass
class DepthGains(Result):
    """Norms over depth relative to where they start from, geometric means over the batch.

    Attributes:
        signal: [N+1], |x_n| / |x_0|; of states that are tuples, their readouts.
        gradient: [N+1], |dL/dx_n| / |dL/dx_N| for the state x_n.
    """

    signal: Tensor
    gradient: Tensor


@dataclass
class StreamGains(Result):
    """Gains of the stream mixings H_res, the worst token's (arXiv:2512.24880, "Amax gain magnitude").

    Attributes:
        row, column: [N], max_i |sum_j H_ij| and max_j |sum_i H_ij| of each step: the largest gain of a signal and of a
            gradient that are equal in all streams. 1 for doubly stochastic matrices.
        total_row, total_column: [N], the same of the products H_n ... H_0.
        total_norm: [N], their spectral norms, which see signals that differ between streams too.
    """

    row: Tensor
    column: Tensor
    total_row: Tensor
    total_column: Tensor
    total_norm: Tensor


def depth_gains(
    stack: FlowStack,
    x: Tensor,
    context: Mapping[str, Tensor] | None = None,
    loss: Callable[[Tensor], Tensor] | None = None,
) -> DepthGains:
    """How the state grows on its way through the stack and the gradient on its way back.

    Args:
        stack, x, context: the stack and an input [B, ...].
        loss: of the stack's output, a scalar that is a sum over samples; None takes a fixed random projection.
    """
    with torch.no_grad():
        signal = stack.trajectory(x, context).double().flatten(2).norm(dim=2)  # [N+1, B]
    return DepthGains(_mean(signal / signal[0]), _mean(_gradients(stack, x, context, loss)))


@torch.no_grad()
def stream_gains(stack: FlowStack, x: Tensor, context: Mapping[str, Tensor] | None = None) -> StreamGains:
    """Gains of the mixings of a stack of stream blocks (hyper-connections) along an input x [B, ...].

    Raises:
        ValueError: a block without streams.
    """
    matrices = stream_matrices(stack, x, context)
    total, parts = torch.eye(matrices[0].shape[-1], dtype=torch.float64), []
    for h in matrices:
        total = h @ total
        parts.append([_amax(h, -1), _amax(h, -2), _amax(total, -1), _amax(total, -2), _norm(total)])
    return StreamGains(*torch.tensor(parts, dtype=torch.float64).unbind(1))


@torch.no_grad()
def stream_matrices(stack: FlowStack, x: Tensor, context: Mapping[str, Tensor] | None = None) -> list[Tensor]:
    """H_res of every step along x, each [tokens, n, n].

    Raises:
        ValueError: a block without streams.
    """
    found = []
    for step in trace(stack, x, context):
        if not isinstance(step.block, StreamBlock):
            raise ValueError(f"{type(step.block).__name__} has no streams to mix; take hyper-connections")
        matrix = step.call("step_matrix", step.t, step.state, step.h)
        tokens = step.state.shape[:-2]
        found.append(host(matrix).double().expand(*tokens, *matrix.shape[-2:]).flatten(0, -3))
    return found


def _gradients(
    stack: FlowStack, x: Tensor, context: Mapping[str, Tensor] | None, loss: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """|dL/dx_n| / |dL/dx_N|, [N+1, B]."""
    with torch.enable_grad():
        states = [_fresh(stack.block(0).lift(x.detach()))]
        for step in stack.steps(x, context):
            # A state of its own at every depth: what it shares with earlier ones counts from here on only.
            states.append(_fresh(step(states[-1])))
        y = stack.block(stack.N - 1).readout(states[-1])
        value = (y * _projection(y)).sum() if loss is None else loss(y)
        leaves = [tree_leaves(state) for state in states]
        flat = [leaf for group in leaves for leaf in group]
        gradients = iter(torch.autograd.grad(value, flat, allow_unused=True))
    norms = []
    for group in leaves:
        parts = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(group, gradients)]
        norms.append(flatten(tuple(parts)).double().norm(dim=1))
    return host(torch.stack(norms) / norms[-1])


def _fresh(state: Any) -> Any:
    return tree_map(lambda leaf: leaf.clone() if leaf.requires_grad else leaf.detach().clone().requires_grad_(), state)


def _projection(y: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)


def _mean(ratios: Tensor) -> Tensor:
    """Geometric mean over the batch of [N+1, B]."""
    return host(ratios.log().mean(dim=1).exp())


def _amax(matrix: Tensor, dim: int) -> float:
    return float(matrix.sum(dim).abs().max())


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2).max()) if bool(matrix.isfinite().all()) else math.inf
