"""Manifold-constrained hyper-connections: streams mixed by doubly stochastic matrices, or by a generator's flow."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from odenets.blocks.base import Block, RelayBlock
from odenets.blocks.flow_block import FeaturesLast
from odenets.blocks.streams import StreamBlock
from odenets.flows import Scheme, StreamFlow, resolve_scheme
from odenets.flows.flow import Frozen
from odenets.flows.linear import Outer, StreamMatrix, StreamUndo, generator_basis, generator_from_rates
from odenets.flows.linear.base import Forcing, StepSize
from odenets.flows.linear.stream import inverse_or_nan
from odenets.kernels.coefficients import coefficients
from odenets.kernels.coefficients.reference import EPS
from odenets.kernels.expand_project import MOST_STREAMS, expand_project
from odenets.kernels.mhc import aggregate_through, project

PARAMETRISATIONS = ("sinkhorn", "generator")


class ManifoldHyperConnections(StreamBlock, RelayBlock):
    """`H_res X + H_post^T F(H_pre X)` on streams X [.., n, C] with H_res doubly stochastic (mHC, arXiv:2512.24880),
    or any scheme's step of `X' = G X + H_post^T F(H_pre X)` with a generator G.

    With r = RMS(vec X) and, per token, H~ = (1/r) alpha (vec(X) phi) + b of size n, n and n^2 (or K):
    H_pre = sigmoid(H~_pre), H_post = 2 sigmoid(H~_post), and

    * parametrisation="sinkhorn" (the paper): H_res = Sinkhorn(exp(H~_res)), 20 iterations. The map H_res is the step
      itself, whatever h is; h scales the forcing only, `H_res X + h H_post^T F`, so that with H_res = I this is the
      residual block at any h. Halving h and doubling the steps therefore applies H_res twice as often: this is not a
      flow. `scheme` and `step` must be left alone.
    * parametrisation="generator": G = sum_k r_k (P_k - I), r = softplus(H~_res), over permutations P_k; the step is
      R(hG) X + h Q(hG) H_post^T F. Doubly stochastic for every h under backward Euler (the default) and the exponential
      scheme, within a bound on h under forward Euler and the implicit midpoint rule (see `Generator`).

    Initialisation: alpha = 0.01 (three scalars), phi normal with standard deviation 1/sqrt(nC) (so that vec(X) phi / r
    is of order 1; zero would leave the streams identical), b_pre = logit(1/n), b_post = 0, b_res = 10 I, or such that
    the streams exchange 0.01 of their content per unit of time. With alpha = 0 and copied streams this is the residual
    block of branch and norm. Coefficients are computed in float32 at least. The streams' mean is the output:
    doubly stochastic mixing conserves it, so that the last block's H_res has no gradient; nor has the first one's,
    which mixes equal streams.

    Args:
        branch: F, a field `f(t, u) -> [u.shape]`.
        dim: number C of features.
        streams: n.
        parametrisation: "sinkhorn" or "generator".
        scheme: for the generator: a Scheme or its name; None takes backward Euler.
        step: for the generator: "frozen" or "half_frozen".
        permutations: for the generator: "all" (K = n! - 1), "cyclic" (n - 1) or "laplacian" (n(n - 1)/2
            transpositions: G is minus the Laplacian of a graph on the streams).
        norm: a module on the last dimension applied to the branch's input, such as `nn.RMSNorm`, or None.
        iterations: of Sinkhorn.
        channel_dim: where x has its features; None: the branch's `channel_dim`, or -1.

    Raises:
        ValueError: an unknown option, or a scheme or half-frozen step for the Sinkhorn parametrisation.
    """

    def __init__(
        self,
        branch: nn.Module,
        dim: int,
        streams: int = 4,
        parametrisation: str = "sinkhorn",
        scheme: Scheme | str | None = None,
        step: str = "frozen",
        permutations: str = "all",
        norm: nn.Module | None = None,
        iterations: int = 20,
        channel_dim: int | None = None,
    ):
        if parametrisation not in PARAMETRISATIONS:
            raise ValueError(f"parametrisation= takes one of {', '.join(PARAMETRISATIONS)}, got {parametrisation!r}")
        inner = FeaturesLast(branch, norm, channel_dim)
        flow: StreamFlow
        if parametrisation == "sinkhorn":
            if scheme is not None or step != "frozen":
                raise ValueError(
                    f"with parametrisation='sinkhorn' H_res is the step itself, got scheme={scheme!r}, step={step!r}; "
                    "leave both out, or use parametrisation='generator'"
                )
            flow = _SinkhornFlow(_SinkhornCoefficients(dim, streams, iterations), inner)
        else:
            kind = "transpositions" if permutations == "laplacian" else permutations
            flow = StreamFlow(_GeneratorCoefficients(dim, streams, kind), inner)
        default = "forward_euler" if parametrisation == "sinkhorn" else "backward_euler"
        super().__init__(flow, streams, default if scheme is None else scheme, step, inner.channel_dim)
        self.parametrisation = parametrisation

    def step_matrix(self, t: Tensor | float, x: Tensor, h: float | Tensor = 1.0) -> Tensor:
        """H_res [.., n, n] of a step h (a float or 0-dim): doubly stochastic."""
        return super().step_matrix(t, x, 1.0 if self.parametrisation == "sinkhorn" else h)

    def relays_to(self, following: Block) -> bool:
        return (
            isinstance(following, ManifoldHyperConnections)
            and type(self) is type(following) is ManifoldHyperConnections
            and self.step == following.step == "frozen"
            and self.streams == following.streams <= MOST_STREAMS
        )

    def relay(
        self, t: Tensor | float, x: Tensor, h: Tensor | float, reading: Any, following: Any
    ) -> tuple[Tensor, Any]:
        """The reading: m = vec(X) phi and the mean square of vec(X)."""
        flow: Any = self.flow
        with torch.autocast(x.device.type, enabled=False):
            m, square = project(x, flow.coefficients.phi) if reading is None else reading
            mixing, pre, post = flow.coefficients.from_projection(m, square)
        u, x = aggregate_through(x, pre)
        linear, forcing = flow.frozen(mixing, post, flow.branch(t, u))
        if following is None:
            return linear.propagate(self.scheme, h, x, forcing), None
        mixing, post = linear.step_weights(self.scheme, h, x, forcing)
        new, m, square = expand_project(x, mixing, post, forcing.v, following.flow.coefficients.phi)
        return new, (m, square)

    def with_scheme(self, name: str) -> "ManifoldHyperConnections":
        """A copy that takes its steps by another scheme, with the parameters shared.

        Raises:
            ValueError: an unknown scheme, or the Sinkhorn parametrisation, which has none.
        """
        if self.parametrisation == "sinkhorn":
            raise ValueError(
                f"with parametrisation='sinkhorn' H_res is the step itself: no scheme to change to {name!r}; "
                "train with parametrisation='generator'"
            )
        other = copy.copy(self)
        other.scheme = resolve_scheme(name)
        return other

    def readout(self, state: Tensor) -> Tensor:
        """The mean of the streams, which doubly stochastic mixing conserves: [.., n, C] -> [.., C]."""
        return super().readout(state.mean(-2))

    def extra_repr(self) -> str:
        return f"parametrisation={self.parametrisation!r}, {super().extra_repr()}"


class _Coefficients(nn.Module):
    """(t, X) -> (mixing, H_pre, H_post)."""

    def __init__(self, dim: int, n: int, b_res: Tensor):
        super().__init__()
        self.sizes = (n, n, b_res.numel())
        self.alpha = nn.Parameter(torch.full((3,), 0.01))
        self.phi = nn.Parameter(torch.randn(n * dim, sum(self.sizes)) / math.sqrt(n * dim))
        b_pre = torch.full((n,), -math.log(n - 1) if n > 1 else 10.0)
        self.b = nn.Parameter(torch.cat([b_pre, torch.zeros(n), b_res.flatten()]))

    def forward(self, t: Tensor | float, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            return self.from_projection(*project(x, self.phi))

    def from_projection(self, m: Tensor, square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(mixing, H_pre, H_post) from m = vec(X) phi [.., N] and the mean square of vec(X) [..]."""
        raise NotImplementedError


class _SinkhornCoefficients(_Coefficients):
    identity: Tensor

    def __init__(self, dim: int, n: int, iterations: int):
        super().__init__(dim, n, 10 * torch.eye(n))
        self.iterations = iterations
        self.register_buffer("identity", torch.eye(n), persistent=False)

    def from_projection(self, m: Tensor, square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pre, post, res = coefficients(m, square, self.alpha, self.b, len(self.identity), self.iterations)
        return res - self.identity, pre, post


class _GeneratorCoefficients(_Coefficients):
    basis: Tensor

    def __init__(self, dim: int, n: int, kind: str):
        basis = generator_basis(n, kind)
        # Every stream is moved by the same number of these permutations: together they exchange 0.01 per unit of time.
        movers = -float(basis.diagonal(dim1=-2, dim2=-1).sum()) / n
        rate = 0.01 / max(movers, 1.0)
        super().__init__(dim, n, torch.full((len(basis),), math.log(math.expm1(rate))))
        self.register_buffer("basis", basis, persistent=False)

    def from_projection(self, m: Tensor, square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r = (square.unsqueeze(-1) + EPS).sqrt()
        alpha, b = self.alpha.to(m.dtype), self.b.to(m.dtype).split(self.sizes)
        pre, post, res = (alpha[i] * part / r + b[i] for i, part in enumerate(m.split(self.sizes, -1)))
        return generator_from_rates(nn.functional.softplus(res), self.basis), pre.sigmoid(), 2 * post.sigmoid()


class _SinkhornFlow(StreamFlow):
    """The stream flow whose step is I + mixing for every step size."""

    def frozen(self, m: Tensor, p: Tensor, f: Tensor) -> Frozen:
        return Frozen(_StepMap(m), Outer(p, f))


class _StepMap(StreamMatrix):
    """A = M, stepped by I + M whatever h is; the forcing takes h."""

    def step_weights(self, scheme: Scheme, h: StepSize, x: Tensor, b: Outer) -> tuple[Tensor, Tensor]:
        eye = torch.eye(self.m.shape[-1], dtype=self.m.dtype, device=self.m.device)
        step = h.reshape(*h.shape, *[1] * (x.dim() - 1 - h.dim())) if isinstance(h, Tensor) and h.dim() else h
        return eye + self.m, step * b.u

    def _propagate(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing) -> Tensor:
        assert isinstance(b, Outer)
        return x + self.m.to(x.dtype) @ x + h * b.u.unsqueeze(-1) * b.v.unsqueeze(-2)

    def _undo(self, scheme: Scheme, h: StepSize, x: Tensor, b: Forcing) -> StreamUndo:
        assert isinstance(b, Outer)
        m = self.m.to(x.dtype)
        inverse = inverse_or_nan(torch.eye(m.shape[-1], dtype=m.dtype, device=m.device) + m)
        return StreamUndo(inverse, (inverse @ (h * b.u.unsqueeze(-1))).squeeze(-1), b.v)
