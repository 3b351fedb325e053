"""The order of convergence that a trained flow shows."""

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odenets.diagnostics.jacobian import flatten
from odenets.diagnostics.restep import Flow, step_of, with_steps
from odenets.diagnostics.result import Result
from odenets.models import FlowStack, NeuralODE


@dataclass
class MeasuredOrder(Result):
    """Differences between the outputs at smaller and smaller steps, and the order they show (Richardson).

    Attributes:
        steps: [M], step sizes, each `ratio` times smaller than the one before.
        differences: [M-1], |y(h_i) - y(h_{i+1})| / |y(h_M)|, root mean squares over batch and features.
        orders: [M-2], log(difference_i / difference_{i+1}) / log(ratio): the scheme's order where the steps resolve
            the flow. Not a number where the differences are rounding.
        order: the last of them.
    """

    steps: Tensor
    differences: Tensor
    orders: Tensor
    order: float


@torch.no_grad()
def measured_order(
    flow: Flow,
    x: Tensor,
    context: Mapping[str, Tensor] | None = None,
    factors: Sequence[int] = (1, 2, 4, 8),
) -> MeasuredOrder:
    """Solve the trained flow at h, h/2, h/4, ... in double precision and see how fast the outputs settle.

    Args:
        flow: a `FlowStack`, refined with its weights constant over each trained step, or a `NeuralODE` with fixed
            steps.
        x, context: an input [B, ...] of the flow.
        factors: the steps are h divided by these; at least three, each a fixed multiple of the one before.

    Raises:
        ValueError: factors as described are not given, or the flow has no step size.
    """
    ratios = {b / a for a, b in itertools.pairwise(factors)}
    if len(factors) < 3 or len(ratios) != 1 or min(ratios) <= 1:
        raise ValueError(f"expected three or more factors with one ratio, such as (1, 2, 4, 8), got {tuple(factors)}")
    h = step_of(flow)
    if h is None:
        raise ValueError("the solver chooses its steps: there is no order in h to measure; use fixed steps")
    double = copy.deepcopy(flow).double()
    outputs = [_run(with_steps(double, 1 / factor), x.double(), context) for factor in factors]
    scale = _rms(outputs[-1])
    differences = [_rms(a - b) / scale for a, b in itertools.pairwise(outputs)]
    ratio = math.log(ratios.pop())
    orders = [_order(a, b, ratio) for a, b in itertools.pairwise(differences)]
    steps = torch.tensor([h / factor for factor in factors], dtype=torch.float64)
    return MeasuredOrder(
        steps, torch.tensor(differences, dtype=torch.float64), torch.tensor(orders, dtype=torch.float64), orders[-1]
    )


def _order(a: float, b: float, ratio: float) -> float:
    """Rounding in double precision has no order."""
    return math.log(a / b) / ratio if min(a, b) > 1e-13 and math.isfinite(a) else math.nan


def _run(flow: Flow, x: Tensor, context: Mapping[str, Tensor] | None) -> Tensor:
    y = flow(x, context=context) if isinstance(flow, FlowStack) else flow(x)
    return y[-1] if isinstance(flow, NeuralODE) and flow.output == "trajectory" else y


def _rms(x: Tensor) -> float:
    return float(flatten(x).square().mean().sqrt())
