"""A two-layer convolution as a vector field on images."""

from torch import Tensor, nn

from odenets.fields.activations import activation as make_activation
from odenets.fields.time import TimeModulation, append_time, as_time, check_time_dependence

NORMS = ("none", "group")


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with the largest of 8, 4, 2, 1 groups that divides the channels and leaves two or more in a group.

    Never a batch statistic: f(t, x) of one sample must not depend on the others, nor change while a step is taken.
    """
    groups = next(g for g in (8, 4, 2, 1) if channels % g == 0 and (channels // g >= 2 or g == 1))
    return nn.GroupNorm(groups, channels)


class Conv(nn.Module):
    """`dx/dt = conv(act(modulate(norm(conv(x)))))` on images, zero padding, same height and width.

    Time dependence: "none"; "concat": t is one more input channel of both convolutions (seen as zero in the padding);
    "modulate": the hidden channels are scaled and shifted by a function of t that starts as the identity.

    Args:
        channels: channels of x.
        hidden: channels between the two convolutions; None takes `channels`.
        kernel_size: odd.
        time: "none", "concat" or "modulate".
        activation: a name in `odenets.fields.activations`.
        norm: "group" (group normalisation of the hidden channels) or "none".
        out_scale: factor on the last convolution's initial weights; 0 makes the initial field zero.

    Raises:
        ValueError: an even kernel size, an unknown `time`, `activation` or `norm`, or (on call) x not
            [B, channels, H, W].
    """

    channel_dim = 1  # where x has its channels: blocks that act on features ask for it

    def __init__(
        self,
        channels: int,
        hidden: int | None = None,
        kernel_size: int = 3,
        time: str = "none",
        activation: str = "tanh",
        norm: str = "none",
        out_scale: float = 1.0,
    ):
        super().__init__()
        if channels < 1 or (hidden is not None and hidden < 1):
            raise ValueError(
                f"Conv expects channels >= 1 and hidden >= 1 or None, got channels={channels}, hidden={hidden}"
            )
        if kernel_size % 2 == 0:
            raise ValueError(
                f"Conv expects an odd kernel_size, got {kernel_size}; an even one would change the image size"
            )
        if norm not in NORMS:
            raise ValueError(f"norm= takes one of {NORMS}, got {norm!r}")
        hidden = hidden or channels
        self.channels = channels
        self.time = check_time_dependence(time)
        extra = 1 if time == "concat" else 0
        self.conv = nn.Conv2d(channels + extra, hidden, kernel_size, padding=kernel_size // 2)
        self.norm = group_norm(hidden) if norm == "group" else nn.Identity()
        self.modulation = TimeModulation(hidden, channel_dim=1) if time == "modulate" else None
        self.activation = make_activation(activation)
        self.out = nn.Conv2d(hidden + extra, channels, kernel_size, padding=kernel_size // 2)
        self.out.weight.data.mul_(out_scale)
        if self.out.bias is not None:
            self.out.bias.data.mul_(out_scale)

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """x [B, channels, H, W]; t a float, [] or [B]. Returns dx/dt with x's shape."""
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(f"Conv expects x [B, {self.channels}, H, W], got {list(x.shape)}; set channels= to match")
        t = as_time(t, x)
        h = self.norm(self.conv(append_time(t, x, dim=1) if self.time == "concat" else x))
        if self.modulation is not None:
            h = self.modulation(t, h)
        h = self.activation(h)
        return self.out(append_time(t, h, dim=1) if self.time == "concat" else h)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, time={self.time!r}"
