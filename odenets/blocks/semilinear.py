"""The general block: any semilinear flow x any scheme x any branch."""

from collections.abc import Callable

from torch import Tensor, nn

from odenets.blocks.flow_block import FeaturesLast, FlowBlock
from odenets.blocks.learned_flows import DeltaRuleFlow
from odenets.flows import Scheme, SemilinearFlow


class Semilinear(FlowBlock):
    """A frozen (or half-frozen) step of a scheme on a flow made around a branch: `flow x scheme x branch`.

    Args:
        branch: F, a field `f(t, x) -> [x.shape]`.
        flow: a factory that makes the flow, `flow(branch=...)`, such as `partial(DecayFlow, dim=32)`. Flows on
            [.., C] or, `DeltaRuleFlow`, on [.., C, 1].
        scheme: a Scheme or its name.
        step: "frozen" or "half_frozen".
        norm: a module on the last dimension applied to the branch's input, such as `nn.RMSNorm`, or None.
        channel_dim: where x has its features; None: the branch's `channel_dim`, or -1.

    Raises:
        ValueError: the factory does not make a SemilinearFlow; an unknown scheme or step.
    """

    def __init__(
        self,
        branch: nn.Module,
        flow: Callable[..., SemilinearFlow],
        scheme: Scheme | str = "backward_euler",
        step: str = "frozen",
        norm: nn.Module | None = None,
        channel_dim: int | None = None,
    ):
        inner = FeaturesLast(branch, norm, channel_dim)
        made = flow(branch=inner)
        if not isinstance(made, SemilinearFlow):
            raise ValueError(f"Semilinear expects a factory of a SemilinearFlow, got one of {type(made).__name__}")
        super().__init__(made, scheme, step, inner.channel_dim)

    def lift(self, x: Tensor) -> Tensor:
        """Channels last, and [.., C] -> [.., C, 1] for a flow on value channels."""
        x = super().lift(x)
        return x.unsqueeze(-1) if isinstance(self.flow, DeltaRuleFlow) else x

    def readout(self, state: Tensor) -> Tensor:
        """Undoes `lift`."""
        return super().readout(state.squeeze(-1) if isinstance(self.flow, DeltaRuleFlow) else state)
