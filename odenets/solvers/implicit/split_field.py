"""A vector field in two parts, one of which a solver may treat implicitly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


class SplitField(nn.Module):
    """f(t, x) = explicit(t, x) + implicit(t, x), for the IMEX methods kencarp3, kencarp4 and kencarp5.

    Put what makes the problem stiff (diffusion, fast reactions) in `implicit`, the rest in `explicit`. Every other
    solver sees the sum.

    Args:
        explicit, implicit: vector fields (t, x, *args) -> like x, functions or modules.
    """

    def __init__(self, explicit: Callable[..., Any], implicit: Callable[..., Any]) -> None:
        super().__init__()
        self.explicit = explicit
        self.implicit = implicit

    def forward(self, t: Tensor, x: Any, *args: Any) -> Any:
        return pytree.tree_map(torch.add, self.explicit(t, x, *args), self.implicit(t, x, *args))
