"""A stack of blocks over an interval of integration time."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from odenets.blocks import Block
from odenets.fields.basis import grid


class FlowStack(nn.Module):
    """N blocks over [0, T]: block n steps from t_n = n h to t_n + h with h = T/N. Depth is integration time.

    Args:
        block: a factory without arguments that returns a Block; called N times, or once if tied.
        T: integration time.
        N: number of steps.
        tied: one block for all steps: a flow with constant weights. Otherwise each step has its own: the flow's weights
            are piecewise constant in time.

    Attributes:
        times: t_0 .. t_N.

    Raises:
        ValueError: N < 1, T not finite and > 0, or `block` is not a factory of Blocks.
    """

    def __init__(self, block: Callable[[], Block], T: float = 1.0, N: int = 8, tied: bool = False):
        super().__init__()
        if N < 1:
            raise ValueError(f"FlowStack expects N >= 1 steps, got {N}")
        if not (0 < T < math.inf):
            raise ValueError(f"FlowStack expects a finite integration time T > 0, got {T}")
        if isinstance(block, nn.Module) or not callable(block):
            raise ValueError(
                f"FlowStack expects a factory such as `lambda: Residual(branch())`, got {type(block).__name__}; "
                "each step needs a block of its own"
            )
        self.T = T
        self.N = N
        self.times = grid(T, N)
        self.blocks = nn.ModuleList(block() for _ in range(1 if tied else N))
        for n, b in enumerate(self.blocks):
            if not isinstance(b, Block):
                raise ValueError(
                    f"FlowStack expects the factory to return a Block, got {type(b).__name__}; derive it from Block"
                )
            b.place(n, len(self.blocks))

    @property
    def h(self) -> float:
        """The step size T/N."""
        return self.T / self.N

    @property
    def tied(self) -> bool:
        """Whether one block makes all steps."""
        return len(self.blocks) == 1

    def block(self, n: int) -> Block:
        """The block that makes step n: a stack with fewer blocks than steps repeats each over equally many steps."""
        block = self.blocks[n * len(self.blocks) // self.N]
        assert isinstance(block, Block)
        return block

    def refined(self, factor: int) -> "FlowStack":
        """The same flow at h / factor: N * factor steps over the same T with these same blocks (parameters shared).

        A stack that has learned a flow gives nearly the same output, the closer the larger the factor; one that has
        learned only its discrete map does not.
        """
        if factor < 1:
            raise ValueError(f"refined expects a factor >= 1, got {factor}")
        finer = copy.copy(self)
        finer.N = self.N * factor
        finer.times = grid(self.T, finer.N)
        return finer

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape the blocks take. Returns the output at time T, with x's shape."""
        state = self.block(0).lift(x)
        for n, t in enumerate(self._times(x)):
            state = self.block(n)(t, state, self.h)
        return self.block(self.N - 1).readout(state)

    def trajectory(self, x: Tensor) -> Tensor:
        """The states [N+1, *state.shape] at t_0 .. t_N, the lifted input first; mostly x's shape."""
        states = [self.block(0).lift(x)]
        for n, t in enumerate(self._times(x)):
            states.append(self.block(n)(t, states[-1], self.h))
        return torch.stack(states)

    def _times(self, x: Tensor) -> list[Tensor]:
        # Filled on the device, one per step: exact in every dtype, nothing to wait for. Never below float32.
        dtype = torch.promote_types(x.dtype, torch.float32)
        return [torch.full((), t, dtype=dtype, device=x.device) for t in self.times[:-1]]

    def extra_repr(self) -> str:
        return f"T={self.T:g}, N={self.N}, h={self.h:g}, tied={self.tied}"
