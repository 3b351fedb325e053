"""Several branches as one vector field."""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn


class Combined(nn.Module):
    """The increment of several branches, so that a whole transformer layer is one block's branch.

    * "sequential": `F = f_1(x) + f_2(x + f_1(x)) + ...`: each branch sees what those before it added. With h = 1,
      `x + F` is what a stack of blocks around f_1, f_2, .. gives.
    * "parallel": `F = f_1(x) + f_2(x) + ...` (Wang, Komatsuzaki 2021, GPT-J): the vector field whose Lie splitting the
      alternating stack is.

    Args:
        branches: vector fields, or factories of them, in order; a mapping's keys only name them.
        mode: "sequential" or "parallel".

    Raises:
        ValueError: no branch or an unknown mode.
    """

    def __init__(self, branches: Sequence | Mapping, mode: Literal["sequential", "parallel"] = "sequential"):
        super().__init__()
        fields = list(branches.values() if isinstance(branches, Mapping) else branches)
        if not fields:
            raise ValueError("Combined expects at least one branch, got none")
        if mode not in ("sequential", "parallel"):
            raise ValueError(f"mode= takes 'sequential' or 'parallel', got {mode!r}")
        self.mode = mode
        self.branches = nn.ModuleList(field if isinstance(field, nn.Module) else field() for field in fields)

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """x as the branches take it. Returns dx/dt with x's shape."""
        increment = self.branches[0](t, x)
        for branch in self.branches[1:]:
            increment = increment + branch(t, x + increment if self.mode == "sequential" else x)
        return increment

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}"
