"""A multilayer perceptron as a vector field."""

import itertools

from torch import Tensor, nn

from odenets.fields.activations import activation as make_activation
from odenets.fields.time import TimeModulation, append_time, as_time, check_time_dependence


class MLP(nn.Module):
    """`dx/dt = MLP(t, x)` on the last dimension, with `depth` hidden layers.

    Time dependence: "none"; "concat": t is one more input feature of every linear layer; "modulate": every hidden
    layer's pre-activation is scaled and shifted by a function of t that starts as the identity.

    Args:
        dim: size of the last dimension of x.
        hidden: width of the hidden layers.
        depth: number of hidden layers; 0 gives an affine field.
        time: "none", "concat" or "modulate".
        activation: a name in `odenets.fields.activations`.
        out_scale: factor on the last layer's initial weights; 0 makes the initial field zero (the identity flow).

    Raises:
        ValueError: depth < 0, an unknown `time` or `activation`, or (on call) x.shape[-1] != dim.
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 64,
        depth: int = 2,
        time: str = "none",
        activation: str = "tanh",
        out_scale: float = 1.0,
    ):
        super().__init__()
        if dim < 1 or hidden < 1 or depth < 0:
            raise ValueError(
                f"MLP expects dim >= 1, hidden >= 1 and depth >= 0, got dim={dim}, hidden={hidden}, depth={depth}"
            )
        self.dim = dim
        self.time = check_time_dependence(time)
        extra = 1 if time == "concat" else 0
        widths = [dim] + [hidden] * depth
        self.layers = nn.ModuleList(nn.Linear(a + extra, b) for a, b in itertools.pairwise(widths))
        self.modulations = nn.ModuleList(TimeModulation(hidden) for _ in range(depth) if time == "modulate")
        self.activation = make_activation(activation)
        self.out = nn.Linear(widths[-1] + extra, dim)
        self.out.weight.data.mul_(out_scale)
        self.out.bias.data.mul_(out_scale)

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """x [..., dim]; t a float, [] or [B] with x [B, ..., dim]. Returns dx/dt [..., dim]."""
        if x.shape[-1] != self.dim:
            raise ValueError(f"MLP expects x [..., {self.dim}], got {list(x.shape)}; build it with dim={x.shape[-1]}")
        t = as_time(t, x)
        h = x
        for i, layer in enumerate(self.layers):
            h = layer(append_time(t, h) if self.time == "concat" else h)
            if self.time == "modulate":
                h = self.modulations[i](t, h)
            h = self.activation(h)
        return self.out(append_time(t, h) if self.time == "concat" else h)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, time={self.time!r}"
