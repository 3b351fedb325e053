"""The highway block: relaxation towards the branch at a learned rate per feature."""

from typing import NamedTuple

from torch import Tensor, nn

from odenets.blocks.flow_block import FeaturesLast, FlowBlock
from odenets.blocks.gate import Rate
from odenets.flows import DiagonalFlow, Scheme, resolve_scheme


class HighwayCoefficients(NamedTuple):
    """The flow x' = rate (target - x) at one state: both [.., C]."""

    rate: Tensor
    target: Tensor


class Highway(FlowBlock):
    """`(1 - T) x + T H(x)` with the gate T = 1 - R(-h tau) of a scheme on `x' = tau(x) (H(x) - x)`.

    Srivastava, Greff, Schmidhuber 2015 (arXiv:1505.00387, eq. 3, coupled carry gate). With h = 1, backward Euler
    (tau = e^z), the exponential scheme (tau = softplus z) and forward Euler (tau = sigmoid z) all have the paper's gate
    T = sigmoid(z), z = W_T x + b_T: they differ at other step sizes, where T = h e^z / (1 + h e^z),
    1 - (1 + e^z)^(-h) and h sigmoid(z). No scheme lets T leave [0, 1] for h <= 1.

    Initialisation: b_T = `bias` < 0, so that the block starts near the identity (section 2.2); W_T normal, std 0.02.

    Args:
        branch: H, a field `f(t, x) -> [x.shape]`.
        dim: number C of features.
        scheme: a Scheme or its name.
        step: "frozen" or "half_frozen".
        norm: a module on the last dimension applied to the input of branch and gate, or None (the paper).
        bias: initial b_T.
        channel_dim: where x has its features; None: the branch's `channel_dim`, or -1.
    """

    def __init__(
        self,
        branch: nn.Module,
        dim: int,
        scheme: Scheme | str = "backward_euler",
        step: str = "frozen",
        norm: nn.Module | None = None,
        bias: float = -2.0,
        channel_dim: int | None = None,
    ):
        scheme = resolve_scheme(scheme)
        rate = Rate(dim, dim, bias, scheme, overshoot=False)
        coefficients = _Coefficients(FeaturesLast(branch, None, channel_dim), rate, norm)
        super().__init__(DiagonalFlow(coefficients), scheme, step, coefficients.branch.channel_dim)

    def coefficients(self, t: Tensor | float, x: Tensor) -> HighwayCoefficients:
        """Rates tau and targets H [.., C] at the state x [.., C]."""
        assert isinstance(self.flow, DiagonalFlow)
        assert isinstance(self.flow.coefficients, _Coefficients)
        return self.flow.coefficients.parts(t, x)

    def gate(self, t: Tensor | float, x: Tensor, h: float | Tensor) -> Tensor:
        """T [.., C] of a step h (a float or 0-dim) from the state x [.., C]."""
        return self.scheme.gate(h * self.coefficients(t, x).rate)


class _Coefficients(nn.Module):
    """(t, x) -> (tau, tau H)."""

    def __init__(self, branch: FeaturesLast, rate: Rate, norm: nn.Module | None):
        super().__init__()
        self.norm = norm
        self.branch = branch
        self.rate = rate

    def parts(self, t: Tensor | float, x: Tensor) -> HighwayCoefficients:
        u = x if self.norm is None else self.norm(x)
        return HighwayCoefficients(self.rate(u), self.branch(t, u))

    def forward(self, t: Tensor | float, x: Tensor) -> tuple[Tensor, Tensor]:
        rate, target = self.parts(t, x)
        return rate, rate * target
