"""Fields with closed-form solutions that depend on time, so that a wrong node shows."""

from __future__ import annotations

import torch
from torch import Tensor

from odenets.solvers import METHODS
from odenets.solvers.implicit.imex import AdditiveTableau
from odenets.solvers.methods import ONE_STEP
from odenets.solvers.solver import WALKERS
from odenets.solvers.structured.method import StructuredMethod

# methods that integrate any field and can also take steps of a given size; the others have tests of their own
SPECIAL = (StructuredMethod, AdditiveTableau)
ANY_FIELD = [name for name in METHODS if name not in WALKERS and not isinstance(ONE_STEP.get(name), SPECIAL)]


def coupled(t: Tensor, y: Tensor) -> Tensor:
    """y1' = y1^2 cos t, y2' = y1 y2 (2 - sin t) cos t; from (1/2, 1) at t = 0 the solution is `coupled_exact`.

    t may be [batch] with y [batch, 2].
    """
    y1, y2 = y.unbind(-1)
    return torch.stack([y1**2 * torch.cos(t), y1 * y2 * (2 - torch.sin(t)) * torch.cos(t)], dim=-1)


def coupled_exact(t: Tensor) -> Tensor:
    """(1 / (2 - sin t), exp(sin t)) [..., 2]."""
    return torch.stack([1 / (2 - torch.sin(t)), torch.exp(torch.sin(t))], dim=-1)


COUPLED_START = torch.tensor([0.5, 1.0], dtype=torch.float64)
