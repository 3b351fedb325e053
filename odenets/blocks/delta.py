"""The delta block: Deep Delta Learning as a scheme on the delta flow."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from odenets.blocks.base import Block, RelayBlock
from odenets.blocks.flow_block import FeaturesLast, FlowBlock
from odenets.blocks.gate import Rate
from odenets.blocks.value_channels import COMPRESS, EXPAND, ChannelCompress
from odenets.flows import DeltaFlow, Scheme, resolve_scheme
from odenets.flows.flow import Frozen
from odenets.flows.linear import Along, Forcing, RankOne, Undo, guarded_unit
from odenets.flows.linear.base import StepSize
from odenets.kernels.delta import delta
from odenets.kernels.delta_compress import delta_compress

NORM_EPS = 1e-6
K_EPS = 1e-5


class DeltaCoefficients(NamedTuple):
    """The flow X' = rate k (v^T - k^T X) at one state: k [.., d], v [.., d_v], rate [..]."""

    k: Tensor
    v: Tensor
    rate: Tensor


class Delta(FlowBlock, RelayBlock):
    """`X + beta k (v^T - k^T X)` on X [.., d, d_v]: Deep Delta Learning (arXiv:2601.00417) with the gate
    beta = 1 - R(-h rate) of any scheme on `X' = rate k (v^T - k^T X)`.

    c = RMSNorm(X) for d_v = 1, RMSNorm(Compress(X)) otherwise; k~ = branch(t, c), the branch's output itself;
    k = k~ / sqrt(|k~|^2 + 1e-10); v = W_v c; logit z = W_b c + b, or W2 tanh(W1 c + b1) + b2, in float32. The rate is
    the function of z that gives the scheme its gate at h = 1 (`rate_from_logits`): with the default implicit midpoint
    rule, rate = 2 e^z and beta = 2 sigmoid(z), the paper's gate exactly, for h = 1; forward Euler has that gate for
    h = 1 too, backward Euler and the exponential scheme have sigmoid(z), which cannot overshoot.

    Depth: with h = 1 and beta_0 = 1 untrained stacks multiply gradients through k(X), by about 45 in 200 layers of
    width 64; beta_0 = 0.1, h = 1/200 or a scheme that cannot overshoot keep them within a factor 2.

    Initialisation: b = logit(beta_0 / 2); W_b (W2) normal with std 0.02, everything else as `nn.Linear`; compressions
    to the mean over d_v, expansions to copies.

    Args:
        branch: F, a field `f(t, x) -> [x.shape]` such as attention or an MLP.
        dim: number d of features.
        value_channels: d_v.
        scheme: a Scheme or its name.
        step: "frozen" or "half_frozen".
        compress: for d_v > 1: "channel" weights over the d_v axis (the default) or "token", a causal convolution over
            the sequence first; states are then [B, T, d, d_v].
        expand: for d_v > 1: "repeat" or "conv", a causal convolution over the sequence.
        beta_0: initial gate on the paper's scale, in (0, 2).
        gate_hidden: width of the gate's hidden layer; None for the one-layer form.
        coefficient: "paper": the gate as above whatever |k| is; "exact": (1 - R(-h rate |k|^2)) / |k|^2.
        write_only: the control X + beta k v^T, with the same gate and nothing erased.
        channel_dim: where x has its features; None: the branch's `channel_dim`, or -1.

    Raises:
        ValueError: an unknown option, d_v < 1 or beta_0 outside (0, 2).
    """

    def __init__(
        self,
        branch: nn.Module,
        dim: int,
        value_channels: int = 1,
        scheme: Scheme | str = "implicit_midpoint",
        step: str = "frozen",
        compress: str = "channel",
        expand: str = "repeat",
        beta_0: float = 1.0,
        gate_hidden: int | None = None,
        coefficient: str = "paper",
        write_only: bool = False,
        channel_dim: int | None = None,
    ):
        if not 0 < beta_0 < 2:
            raise ValueError(f"Delta expects 0 < beta_0 < 2, got {beta_0}")
        if value_channels < 1:
            raise ValueError(f"Delta expects value_channels >= 1, got {value_channels}")
        if compress not in COMPRESS or expand not in EXPAND:
            raise ValueError(
                f"Delta takes compress= one of {', '.join(COMPRESS)} and expand= one of {', '.join(EXPAND)}, "
                f"got {compress!r} and {expand!r}"
            )
        scheme = resolve_scheme(scheme)
        rate = Rate(dim, 1, math.log(beta_0 / (2 - beta_0)), scheme, gate_hidden)
        inner = FeaturesLast(branch, None, channel_dim)
        reads = value_channels > 1
        coefficients = _Coefficients(inner, dim, value_channels, COMPRESS[compress] if reads else None, rate)
        super().__init__(_Flow(coefficients, coefficient, write_only), scheme, step, inner.channel_dim)
        self.expand = EXPAND[expand](dim, value_channels) if reads else None
        self.compress = COMPRESS[compress](dim, value_channels) if reads else None

    def place(self, index: int, count: int) -> None:
        # Only the first block of a stack lifts and only the last one reads out: the others own no weights for it.
        if index > 0:
            self.expand = None
        if index < count - 1:
            self.compress = None

    def coefficients(self, t: Tensor | float, x: Tensor) -> DeltaCoefficients:
        """k [.., d], v [.., d_v] and rate [..] at the state x [.., d, d_v]."""
        assert isinstance(self.flow, DeltaFlow)
        return DeltaCoefficients(*self.flow.coefficients(t, x))

    def gate(self, t: Tensor | float, x: Tensor, h: float | Tensor) -> Tensor:
        """beta [..] of a step h from the state x [.., d, d_v]."""
        linear = self.flow.freeze(t, x).linear
        assert isinstance(linear, RankOne)
        return linear.gate(self.scheme, h)

    def relays_to(self, following: Block) -> bool:
        return isinstance(following, Delta) and all(
            type(b) is Delta and b.step == "frozen" and b.flow.relays for b in (self, following)
        )

    def relay(
        self, t: Tensor | float, x: Tensor, h: Tensor | float, reading: Any, following: Any
    ) -> tuple[Tensor, Any]:
        """The reading: c. k~ goes to the kernel as the branch gives it."""
        coefficients: Any = self.flow.coefficients
        c = coefficients.read(x) if reading is None else reading
        k, v, rate = coefficients.branch(t, c), coefficients.value(c), coefficients.rate(c).squeeze(-1)
        if isinstance(h, Tensor) and h.dim():
            h = h.reshape(*h.shape, *[1] * (rate.dim() - h.dim()))
        beta = self.scheme.gate(h * rate)
        if following is None:
            return delta(x, k, v, beta, K_EPS)[0], None
        ahead = following.flow.coefficients
        weight = x.new_ones(x.shape[-2:]) if ahead.compress is None else ahead.compress.weight
        return delta_compress(x, k, v, beta, weight, ahead.norm.weight, K_EPS, NORM_EPS)

    def lift(self, x: Tensor) -> Tensor:
        """[.., d] -> [.., d, d_v]."""
        x = super().lift(x)
        return x.unsqueeze(-1) if self.expand is None else self.expand(x)

    def readout(self, state: Tensor) -> Tensor:
        """[.., d, d_v] -> [.., d]; a compression of its own, as in the paper."""
        return super().readout(state.squeeze(-1) if self.compress is None else self.compress(state))


class _Coefficients(nn.Module):
    """(t, X) -> (k, v, rate)."""

    def __init__(self, branch: nn.Module, dim: int, value_channels: int, compress: type[nn.Module] | None, rate: Rate):
        super().__init__()
        self.compress = None if compress is None else compress(dim, value_channels)
        self.norm = nn.RMSNorm(dim, eps=NORM_EPS)
        self.branch = branch
        self.value = nn.Linear(dim, value_channels, bias=False)
        self.rate = rate

    def forward(self, t: Tensor | float, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c = self.read(x)
        return guarded_unit(self.branch(t, c), K_EPS), self.value(c), self.rate(c).squeeze(-1)

    def read(self, x: Tensor) -> Tensor:
        """c [.., d] of x [.., d, d_v]."""
        return self.norm(x.squeeze(-1) if self.compress is None else self.compress(x))


class _Flow(DeltaFlow):
    def __init__(self, coefficients: nn.Module, coefficient: str, write_only: bool):
        super().__init__(coefficients, coefficient)
        self.write_only = write_only
        if coefficient not in ("paper", "exact"):
            raise ValueError(f"coefficient= takes 'paper' or 'exact', got {coefficient!r}")

    @property
    def relays(self) -> bool:
        """Whether the kernels know this flow: the paper's coefficient, compression within tokens."""
        compress = getattr(self.coefficients, "compress", None)
        whole = self.coefficient == "paper" and not self.write_only
        return whole and (compress is None or isinstance(compress, ChannelCompress))

    def freeze(self, t: Tensor | float, x: Tensor) -> Frozen:
        if not self.write_only:
            return super().freeze(t, x)
        k, v, rate = self.coefficients(t, x)
        return Frozen(_WriteOnly(k, self.coefficient, rate), Along(v))


class _WriteOnly(RankOne):
    """A = 0 with the forcing of the rank-one part, written with that part's gate."""

    def apply(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def matrix(self) -> Tensor:
        return torch.zeros_like(super().matrix())

    def _fused(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing) -> Tensor | None:
        return None  # the kernel erases

    def field(self, x: Tensor, b: Forcing = None) -> Tensor:
        return torch.as_tensor(self.forcing(b), device=x.device).to(x.dtype).expand_as(x)

    def _propagate(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing) -> Tensor:
        # From a state of zeros there is nothing to erase: only the write is left.
        return x + super()._propagate(scheme, h, torch.zeros_like(x), b)

    def _undo(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing) -> Undo:
        return super()._undo(scheme, h, torch.zeros_like(x), b)
