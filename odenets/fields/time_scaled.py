"""A network as the field of a stiff system: every component on a time scale of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TimeScaled(nn.Module):
    """`x_i' = (g_i(t, x) - x_i) / times_i`: component i follows the network g within `times_i`.

    The scaling of the equations of Kim, Ji, Deng, Ma and Rackauckas, "Stiff neural ordinary differential equations",
    Chaos 31, 093122 (2021): x is the state over its range, and the network's output stays of order one however fast a
    component is. There one time scale, the length of the interval, serves all components. Here each has its own, and
    -x_i keeps the state within the bounds of the network over any number of its time scales: stiff from the beginning.

    Args:
        field: g, a vector field (t, x) -> like x.
        times: time scale of every component [dim], all positive.

    Raises:
        ValueError: for a time scale that is not positive.
    """

    times: Tensor

    def __init__(self, field: nn.Module, times: Sequence[float]) -> None:
        super().__init__()
        if not times or min(times) <= 0:
            raise ValueError(f"TimeScaled expects positive time scales, one for every component, got {list(times)}")
        self.field = field
        self.register_buffer("times", torch.tensor(times, dtype=torch.get_default_dtype()), persistent=False)

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """x [..., dim]. Returns dx/dt [..., dim]."""
        return (self.field(t, x) - x) / self.times
