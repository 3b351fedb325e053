"""What the physical systems share: the coefficient, and the check and layout of the state."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from odenets.fields.time import expand_time


class Coefficient(nn.Module):
    """One coefficient of a physical system; call it for its value.

    A fixed number stays a Python float, exact in every dtype; a fixed tensor is a buffer (an ensemble of systems: its
    shape broadcasts against the leading dimensions of the state). A learnable positive coefficient is stored as its
    logarithm, so that no gradient step can make it negative; in float32 its value then has a relative error of about
    1e-7 |log value| (Robertson's 3e7: 2e-6). Fixed numbers are not in the state dict: they belong to the configuration.

    Raises:
        ValueError: learnable and positive, but the value is not > 0 (a plain number is checked; a tensor is not, as
            that would wait for the device).
    """

    value: Tensor | float

    def __init__(self, name: str, value: float | Tensor, learnable: bool = False, positive: bool = True):
        super().__init__()
        self.log = learnable and positive
        self.learnable = learnable
        if self.log and not isinstance(value, Tensor) and value <= 0:
            raise ValueError(f"{name} must be > 0 to be learned through its logarithm, got {value}")
        if learnable:
            tensor = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.get_default_dtype())
            self.value = nn.Parameter(tensor.log() if self.log else tensor.clone())
        elif isinstance(value, Tensor):
            self.register_buffer("value", value)
        else:
            self.value = float(value)

    def forward(self) -> Tensor | float:
        if self.log:
            assert isinstance(self.value, Tensor)
            return self.value.exp()
        return self.value

    def extra_repr(self) -> str:
        if isinstance(self.value, float):
            return f"{self.value:g}"
        kind = "learnable, stored as log" if self.log else "learnable" if self.learnable else "fixed"
        return f"{kind}, shape {list(self.value.shape)}"


class System(nn.Module):
    """A physical system `dx/dt = f(t, x)` with the state in the last dimension: x [..., dim].

    A subclass gives the right-hand side of the separate components. `names` are the components in order, `initial` a
    standard initial state, and `span` the time interval it is usually integrated over.
    """

    names: ClassVar[tuple[str, ...]]
    initial: ClassVar[tuple[float, ...]]
    span: ClassVar[tuple[float, float]]

    @property
    def dim(self) -> int:
        return len(self.names)

    @abstractmethod
    def rhs(self, t: Tensor, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The derivative of each component; t broadcasts with the components."""

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """x [..., dim]; t a float, [] or [B] with x [B, ..., dim]. Returns dx/dt [..., dim]."""
        components = self.split(x)
        return torch.stack(self.rhs(expand_time(t, components[0]), components), dim=-1)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The components [...] of x [..., dim].

        Raises:
            ValueError: the last dimension is not `dim`.
        """
        if x.dim() == 0 or x.shape[-1] != self.dim:
            raise ValueError(
                f"{type(self).__name__} expects x [..., {self.dim}] = ({', '.join(self.names)}), got {list(x.shape)}; "
                "put the components in the last dimension"
            )
        return x.unbind(-1)

    def initial_state(
        self, *batch: int, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> Tensor:
        """The standard initial state [*batch, dim]."""
        return torch.tensor(self.initial, dtype=dtype, device=device).expand(*batch, self.dim).clone()
