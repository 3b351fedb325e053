"""Step sizes of a stack: equal, or learned."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

Steps = Literal["fixed", "free", "sum_to_T"]


class StepSizes(nn.Module):
    """N learnable step sizes, all positive: `softplus(raw)`, or `T softplus(raw) / sum softplus(raw)`.

    They start at T/N each. The memory of a real step size is `raw` [N].

    Args:
        T: integration time at the start, and for ever if the sum is fixed.
        N: number of steps.
        fixed_sum: keep the sum at T: only where the time goes is learned, not how much of it there is.
    """

    def __init__(self, T: float, N: int, fixed_sum: bool):
        super().__init__()
        self.T = T
        self.fixed_sum = fixed_sum
        self.raw = nn.Parameter(torch.full((N,), math.log(math.expm1(T / N))))

    def forward(self, dtype: torch.dtype) -> Tensor:
        """The step sizes [N], in `dtype` but never below the parameters' own precision."""
        h = nn.functional.softplus(self.raw.to(torch.promote_types(dtype, self.raw.dtype)))
        return self.T * h / h.sum() if self.fixed_sum else h

    def extra_repr(self) -> str:
        return f"N={len(self.raw)}, fixed_sum={self.fixed_sum}"


def make_step_sizes(steps: str, T: float, N: int) -> StepSizes | None:
    """The learnable step sizes, or None for fixed ones. Raises ValueError for an unknown name."""
    if steps not in ("fixed", "free", "sum_to_T"):
        raise ValueError(f"steps= takes 'fixed', 'free' or 'sum_to_T', got {steps!r}")
    return None if steps == "fixed" else StepSizes(T, N, fixed_sum=steps == "sum_to_T")
