"""Between d features and a state of d x d_v: the expansions and compressions of Deep Delta Learning."""

import torch
from torch import Tensor, nn

KERNEL = 4
"""Width of the causal convolutions (arXiv:2601.00417)."""


class ChannelCompress(nn.Module):
    """[.., d, d_v] -> [.., d] by weights over the d_v axis, w [d, d_v], within each token ("CC").

    The paper's depthwise convolution along d_v and its read vector are one linear map, kept here as one. Initialised to
    the mean, 1/d_v.
    """

    def __init__(self, dim: int, value_channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim, value_channels), 1 / value_channels))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).sum(-1)


class TokenCompress(nn.Module):
    """[B, T, d, d_v] -> [B, T, d] by a causal depthwise convolution over the T tokens, kernel 4, on all d d_v channels,
    and a read vector over the d_v axis ("TC").

    Initialisation: the convolution is the identity (the current token's tap 1, the others 0), the read vector 1/d_v.
    """

    def __init__(self, dim: int, value_channels: int):
        super().__init__()
        self.weight = nn.Parameter(_last_tap(dim * value_channels))
        self.read = nn.Parameter(torch.full((value_channels,), 1 / value_channels))

    def forward(self, x: Tensor) -> Tensor:
        _check_tokens(x, 4, "states [B, T, d, d_v]")
        mixed = _causal(x.flatten(-2), self.weight).unflatten(-1, x.shape[-2:])
        return (mixed * self.read).sum(-1)


class RepeatExpand(nn.Module):
    """[.., d] -> [.., d, d_v] by copies."""

    def __init__(self, dim: int, value_channels: int):
        super().__init__()
        self.value_channels = value_channels

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1).expand(*x.shape, self.value_channels)


class ConvExpand(nn.Module):
    """[B, T, d] -> [B, T, d, d_v] by a causal depthwise convolution over the T tokens, kernel 4, d_v filters per
    feature ("EC"), initialised to copies."""

    def __init__(self, dim: int, value_channels: int):
        super().__init__()
        self.value_channels = value_channels
        self.weight = nn.Parameter(_last_tap(dim * value_channels))

    def forward(self, x: Tensor) -> Tensor:
        _check_tokens(x, 3, "activations [B, T, d]")
        return _causal(x, self.weight).unflatten(-1, (x.shape[-1], self.value_channels))


COMPRESS: dict[str, type[nn.Module]] = {"channel": ChannelCompress, "token": TokenCompress}
EXPAND: dict[str, type[nn.Module]] = {"repeat": RepeatExpand, "conv": ConvExpand}


def _last_tap(channels: int) -> Tensor:
    weight = torch.zeros(channels, KERNEL)
    weight[:, -1] = 1
    return weight


def _causal(x: Tensor, weight: Tensor) -> Tensor:
    """x [B, T, C] convolved over T with weight [C * multiplier, K], seeing the current and earlier tokens only."""
    past = weight.shape[-1] - 1
    padded = nn.functional.pad(x.mT, (past, 0))
    return nn.functional.conv1d(padded, weight.unsqueeze(1), groups=x.shape[-1]).mT


def _check_tokens(x: Tensor, dims: int, wanted: str) -> None:
    if x.dim() != dims:
        raise ValueError(
            f"a convolution over tokens expects {wanted}, got {list(x.shape)}; "
            "without a sequence use compress='channel' and expand='repeat'"
        )
