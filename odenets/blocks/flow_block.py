"""A block that is a scheme on a semilinear flow, and the branch inside such a flow."""

from torch import Tensor, nn

from odenets.blocks.base import Block
from odenets.flows import Scheme, SemilinearFlow, frozen_step, half_frozen_step, resolve_scheme
from odenets.flows.linear import Undo
from odenets.flows.step import freeze_at_middle

STEPS = {"frozen": frozen_step, "half_frozen": half_frozen_step}


class FlowBlock(Block):
    """One frozen or half-frozen step of a scheme on a semilinear flow (see `odenets.flows.step`).

    The state has its features in the last dimensions, whatever the activations look like: `lift` moves the channels
    there and `readout` moves them back.

    Args:
        flow: the flow, acting on lifted states.
        scheme: a Scheme or its name, such as "backward_euler".
        step: "frozen", one evaluation of the branch; "half_frozen", two: A and b from a predicted middle.
        channel_dim: where the activations keep their channels: -1 for [B, .., C], 1 for images [B, C, H, W].

    Raises:
        ValueError: an unknown scheme or step.
    """

    def __init__(self, flow: SemilinearFlow, scheme: Scheme | str, step: str = "frozen", channel_dim: int = -1):
        super().__init__()
        if step not in STEPS:
            raise ValueError(f"step= takes one of {', '.join(STEPS)}, got {step!r}")
        self.flow = flow
        self.scheme = resolve_scheme(scheme)
        self.step = step
        self.channel_dim = channel_dim

    def field(self, t: Tensor | float, x: Tensor) -> Tensor:
        """The flow's vector field at the state x, which a solver can integrate. Returns dx/dt in x's shape."""
        return self.flow(t, x)

    def forward(self, t: Tensor | float, x: Tensor, h: Tensor | float) -> Tensor:
        """The state after a step h from the state x [B, ..]; t and h floats, [] or [B]. Returns x's shape, dtype."""
        return STEPS[self.step](self.flow, self.scheme, t, x, h)

    def forward_and_undo(self, t: Tensor | float, x: Tensor, h: Tensor | float) -> tuple[Tensor, Undo]:
        """`forward` and what rebuilds x from its result (see `LinearPart.undo`)."""
        if self.step == "frozen":
            linear, forcing = self.flow.freeze(t, x)
        else:
            linear, forcing = freeze_at_middle(self.flow, self.scheme, t, x, h)
        return linear.propagate(self.scheme, h, x, forcing), linear.undo(self.scheme, h, x, forcing)

    def lift(self, x: Tensor) -> Tensor:
        """Channels last: [B, C, H, W] -> [B, H, W, C] for channel_dim = 1."""
        return x if self.channel_dim == -1 else x.movedim(self.channel_dim, -1)

    def readout(self, state: Tensor) -> Tensor:
        """Channels back where they were."""
        return state if self.channel_dim == -1 else state.movedim(-1, self.channel_dim)

    def extra_repr(self) -> str:
        return f"scheme={self.scheme.name!r}, step={self.step!r}"


class FeaturesLast(nn.Module):
    """`branch(t, norm(u))` on u [.., C] for a branch that wants its channels elsewhere.

    Args:
        branch: a vector field `f(t, u)`.
        norm: a module on the last dimension applied first, such as `nn.RMSNorm`, or None.
        channel_dim: where the branch has its channels; None takes the branch's own `channel_dim`, or -1 if it has none.
    """

    def __init__(self, branch: nn.Module, norm: nn.Module | None = None, channel_dim: int | None = None):
        super().__init__()
        self.branch = branch
        self.norm = norm
        self.channel_dim = int(getattr(branch, "channel_dim", -1)) if channel_dim is None else channel_dim

    def forward(self, t: Tensor | float, u: Tensor) -> Tensor:
        """u [B, .., C]; t a float, [] or [B]. Returns u's shape."""
        u = u if self.norm is None else self.norm(u)
        if self.channel_dim == -1:
            return self.branch(t, u)
        return self.branch(t, u.movedim(-1, self.channel_dim)).movedim(self.channel_dim, -1)
