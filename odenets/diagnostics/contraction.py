"""Does a flow pull its trajectories together: logarithmic norm and one-sided Lipschitz constant."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odenets.diagnostics.jacobian import Jacobian, flatten
from odenets.diagnostics.krylov import arnoldi
from odenets.diagnostics.result import Result, host
from odenets.diagnostics.spectrum import DENSE, random_start
from odenets.diagnostics.trace import Step, trace
from odenets.models import FlowStack


@dataclass
class Contraction(Result):
    """mu_2 of each step, the largest over the batch, and what it allows.

    Attributes:
        mu: [N]; negative: trajectories near these states approach each other at least at the rate |mu|.
        of_field: [N], whether mu is that of the block's vector field; else it is that of (J - I) / h, J the step's
            Jacobian.
        bound: exp(sum_n h_n mu_n): the flow along these states grows no perturbation by more.
    """

    mu: Tensor
    of_field: list[bool]
    bound: float


def logarithmic_norm(jacobian: Jacobian, dense_limit: int = DENSE, iterations: int = 48) -> Tensor:
    """mu_2(J) [B], the largest eigenvalue of (J + J^T) / 2 (Hairer, Norsett, Wanner I, section I.10, eq. 10.20).

    By Lanczos' method above dense_limit, which approaches it from below.

    Raises:
        ValueError: the Jacobian is not square.
    """
    _, m, n = jacobian.shape
    if m != n:
        raise ValueError(f"the logarithmic norm needs a square Jacobian, got {m} x {n}")
    if n <= dense_limit:
        j = jacobian.dense().double()
        return host(torch.linalg.eigvalsh((j + j.mT) / 2)[:, -1])
    h, _ = arnoldi(lambda v: (jacobian.apply(v) + jacobian.transpose(v)) / 2, random_start(jacobian.state), iterations)
    h = h.double()
    return host(torch.linalg.eigvalsh((h + h.mT) / 2)[:, -1])


@torch.no_grad()
def one_sided_lipschitz(field: Callable[..., Tensor], t: Tensor | float, x: Tensor, y: Tensor) -> Tensor:
    """<f(t, x) - f(t, y), x - y> / |x - y|^2 [B] for pairs of states [B, ...] (Hairer, Wanner II, eq. IV.12.4).

    Its supremum over all pairs is the one-sided Lipschitz constant, and so is that of mu_2 over all states.

    Raises:
        ValueError: a pair of equal states.
    """
    difference = flatten(x - y).double()
    square = difference.square().sum(1)
    if not bool((square > 0).all()):
        raise ValueError("one_sided_lipschitz expects two different states in every pair, got equal ones")
    change = flatten(field(t, x) - field(t, y)).double()
    return host((change * difference).sum(1) / square)


def contraction(
    stack: FlowStack, x: Tensor, context: Mapping[str, Tensor] | None = None, **settings: Any
) -> Contraction:
    """mu_2 of every step of the stack at the states that x passes through.

    Args:
        stack, x, context: the stack and an input [B, ...].
        settings: as for `logarithmic_norm`.

    Raises:
        ValueError: a block whose state grows and that knows no vector field.
    """
    steps = trace(stack, x, context)
    mu = torch.stack([_mu(step, settings) for step in steps])
    total = sum(step.h * float(m) for step, m in zip(steps, mu))
    return Contraction(mu, [step.has_field for step in steps], float(torch.tensor(total).double().exp()))


def _mu(step: Step, settings: dict[str, Any]) -> Tensor:
    if step.has_field:
        return logarithmic_norm(Jacobian(step.field, step.state), **settings).max()
    jacobian = Jacobian(step.map, step.state)
    # mu(a J + b I) = a mu(J) + b for a > 0
    return (logarithmic_norm(jacobian, **settings).max() - 1) / step.h
