"""Semilinear flows with learned coefficients around a branch: what the group `flow` of the configuration names.

The flow knows nothing of the scheme that will step along it: rates are the same functions of their logits whatever the
scheme. The named blocks (Delta, Highway) tie the two together the way their papers do.
"""

import math

import torch
from torch import Tensor, nn

from odenets.blocks.gate import linear_at_least_single
from odenets.flows import SemilinearFlow
from odenets.flows.flow import Frozen
from odenets.flows.linear import Along, Diagonal, RankOne, Skew, guarded_unit

K_EPS = 1e-5


class DecayFlow(SemilinearFlow):
    """`x' = -tau * x + F(t, x)` on x [.., C] with a learned rate tau > 0 per feature: leaky integration.

    tau = softplus(w), initially `rate` for all features. The exponential scheme's step is that of a leaky integrator,
    e^(-h tau) x + (1 - e^(-h tau)) / tau F.

    Args:
        branch: F, a field `f(t, x) -> [x.shape]`.
        dim: number C of features.
        rate: initial tau > 0.

    Raises:
        ValueError: rate <= 0.
    """

    def __init__(self, branch: nn.Module, dim: int, rate: float = 1.0):
        super().__init__()
        if not rate > 0:
            raise ValueError(f"DecayFlow expects a rate > 0, got {rate}")
        self.branch = branch
        self.logit = nn.Parameter(torch.full((dim,), math.log(math.expm1(rate)) if rate < 30 else rate))

    @property
    def rate(self) -> Tensor:
        """tau [C]."""
        return nn.functional.softplus(self.logit)

    def freeze(self, t: Tensor | float, x: Tensor) -> Frozen:
        return Frozen(Diagonal(self.rate), self.branch(t, x))


class RelaxationFlow(SemilinearFlow):
    """`x' = tau(x) * (F(t, x) - x)` on x [.., C]: relaxation towards the branch at learned rates, the highway's flow.

    tau = softplus(W x + b) per feature, so that the exponential scheme's gate at h = 1 is sigmoid(W x + b)
    (arXiv:1505.00387, eq. 3). Initialisation: W normal with standard deviation 0.02, b = `bias`.

    Args:
        branch: F, a field `f(t, x) -> [x.shape]`.
        dim: number C of features.
        bias: initial b.
    """

    def __init__(self, branch: nn.Module, dim: int, bias: float = -2.0):
        super().__init__()
        self.branch = branch
        self.logits = _logits(dim, bias)

    def freeze(self, t: Tensor | float, x: Tensor) -> Frozen:
        rate = nn.functional.softplus(linear_at_least_single(self.logits, x))
        return Frozen(Diagonal(rate), rate * self.branch(t, x))


class RotationFlow(SemilinearFlow):
    """`x' = (S - S^T - gamma I) x + F(t, x)` on x [.., C] with a learned S [C, C]: rotation with damping.

    Without forcing, the exponential scheme and the implicit midpoint rule keep |x| for gamma = 0, forward Euler lets it
    grow (arXiv:1902.09689 gives the case of a skew matrix inside the nonlinearity: that is the block Antisymmetric).

    Initialisation: S normal with standard deviation scale / sqrt(C).

    Args:
        branch: F, a field `f(t, x) -> [x.shape]`.
        dim: number C of features.
        gamma: damping >= 0.
        scale: of the initial S; the largest frequency is about 2.8 scale.

    Raises:
        ValueError: gamma < 0.
    """

    def __init__(self, branch: nn.Module, dim: int, gamma: float = 0.0, scale: float = 0.3):
        if not gamma >= 0:
            raise ValueError(f"RotationFlow expects gamma >= 0, got {gamma}; it is subtracted from the diagonal")
        super().__init__()
        self.branch = branch
        self.gamma = gamma
        self.weight = nn.Parameter(torch.randn(dim, dim) * scale / dim**0.5)

    def freeze(self, t: Tensor | float, x: Tensor) -> Frozen:
        return Frozen(Skew(self.weight, self.gamma), self.branch(t, x))


class DeltaRuleFlow(SemilinearFlow):
    """`X' = rate k (v^T - k^T X)` with k = branch / |branch| on X [.., C, 1]: the flow of Deep Delta Learning
    (arXiv:2601.00417) with one value channel.

    c = RMSNorm(x), v = W_v c, rate = 2 e^z with z = W_b c + b in float32: the implicit midpoint rule's gate at h = 1 is
    then 2 sigmoid(z), the paper's. Forward Euler has no bound on it: rate h > 2 grows.

    Args:
        branch: F, a field `f(t, c) -> [c.shape]`; k is its direction.
        dim: number C of features.
        bias: initial z; 0 is the paper's gate 1 at h = 1.
    """

    def __init__(self, branch: nn.Module, dim: int, bias: float = 0.0):
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.branch = branch
        self.value = nn.Linear(dim, 1, bias=False)
        self.logits = _logits(dim, bias, outputs=1)

    def freeze(self, t: Tensor | float, x: Tensor) -> Frozen:
        c = self.norm(x.squeeze(-1))
        rate = 2 * linear_at_least_single(self.logits, c).clamp(max=30.0).exp().squeeze(-1)
        return Frozen(RankOne(guarded_unit(self.branch(t, c), K_EPS), rate=rate), Along(self.value(c)))


def _logits(dim: int, bias: float, outputs: int | None = None) -> nn.Linear:
    linear = nn.Linear(dim, dim if outputs is None else outputs)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.constant_(linear.bias, bias)
    return linear
