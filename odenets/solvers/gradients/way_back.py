"""Whether the state that a continuous adjoint computes again on its way back is the one the forward solve had.

Where the flow contracts as exp(-r t) it expands as exp(r t) backward: on a stiff problem no method and no tolerance
finds the way back, and explicit or implicit steps go astray without an error of their own (an L-stable method damps
what should grow, and near a pole of its stability function it amplifies what should not). The gradient is then wrong
by as much, silently. At every output time the forward solve's state is known, so that going astray shows.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..errors import SolveError

LIMIT = 0.1
INSTEAD = "use gradient='interpolating_adjoint' (adaptive steps), 'checkpoint' or 'autograd'"


def failed(cause: str) -> str:
    """What to say of a backward solve that did not reach its end."""
    return f"the backward solve of the adjoint failed: {cause} If the flow contracts fast, {INSTEAD}."


class WayBack:
    """Compares states computed backward with those of the forward solve; waits for the device once, in `check`.

    Args:
        strict: whether to raise SolveError, or to warn.
    """

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict
        self.ratios: list[Tensor] = []

    def note(self, found: Tensor, known: Tensor, start: Tensor) -> None:
        """The backward solve came from the state `start` to `found`, where the forward solve had `known`."""
        size = torch.maximum(known.abs().amax(), start.abs().amax())
        ratio = (found - known).abs().amax() / size
        self.ratios.append(torch.where(torch.isfinite(size) & (size > 0), ratio, 0.0))

    def check(self) -> None:
        """Raise (or warn) if a state was off by more than a tenth of the largest component, or not finite."""
        if not self.ratios:
            return
        worst = float(torch.stack(self.ratios).amax())
        self.ratios = []
        if worst <= LIMIT:
            return
        message = (
            f"the adjoint's backward solve lost the forward solve's path: the state it came back to is off by {worst:.1e} "
            "times its size, so the gradient would be wrong. The flow contracts too fast to be followed backward: "
            f"{INSTEAD}."
        )
        if self.strict:
            raise SolveError(message)
        warnings.warn(message, stacklevel=2)
