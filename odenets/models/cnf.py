"""A continuous normalising flow: a probability density carried along a vector field."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from odenets.models.divergence import Noise, draw_noise, exact_divergence, hutchinson_divergence
from odenets.solvers import Gradient, Solver, Stats, resolve_gradient, resolve_solver, solve

TRACES = ("exact", "hutchinson")
NOISES = ("rademacher", "gaussian")


class Transport(NamedTuple):
    """Where samples x [B, d] came from, and what the field did on their way, each [B] but `z`.

    Attributes:
        z: the point of the base distribution [B, d].
        log_det: log |det dz/dx|, the integral of -tr J: `log p(x) = log p(z) + log_det`.
        kinetic: the integral of |f|^2 (zero unless asked for).
        jacobian: the integral of |J|_F^2 (zero unless asked for).
    """

    z: Tensor
    log_det: Tensor
    kinetic: Tensor
    jacobian: Tensor


class CNF(nn.Module):
    """The density at t = T of standard normal samples at t = 0 that move by `x' = field(t, x)`.

    Along a solution `d log p(x(t))/dt = -tr(df/dx)` (Chen et al. 2018, arXiv:1806.07366, theorem 1), so that one solve
    backward in time gives `log p(x) = log N(x(0); 0, I) - int_0^T tr(df/dx) dt`. FFJORD (Grathwohl et al. 2019,
    arXiv:1810.01367) takes `e^T (df/dx) e` for the trace, with the random e of a sample fixed during a solve, in
    expectation the same and for one backward pass instead of d. In evaluation mode the trace is exact.

    Args:
        field: a vector field on x [B, d] in which samples do not see each other (no batch norm).
        dim: d.
        trace: "exact" or, while training, "hutchinson".
        noise: of the second: "rademacher" (signs) or "gaussian".
        solver, gradient: as in `NeuralODE`; the state of the solve is a tuple of x and the integrals.
        T: the time of the data, > 0.

    Attributes:
        last_stats: evaluations and steps of the latest solve.

    Raises:
        ValueError: unknown names, dim < 1, T not finite and > 0, or (on call) x that is not [B, d].
    """

    def __init__(
        self,
        field: nn.Module,
        dim: int = 2,
        trace: Literal["exact", "hutchinson"] = "exact",
        noise: Noise = "rademacher",
        solver: Solver | str = "dopri5",
        gradient: Gradient | str = "autograd",
        T: float = 1.0,
    ):
        super().__init__()
        for name, value, known in (("trace", trace, TRACES), ("noise", noise, NOISES)):
            if value not in known:
                raise ValueError(f"{name}= takes one of {known}, got {value!r}")
        if dim < 1 or not 0 < T < math.inf:
            raise ValueError(f"CNF expects dim >= 1 and a finite time T > 0, got dim={dim}, T={T}")
        self.field = field
        self.dim = dim
        self.trace = trace
        self.noise: Noise = noise
        self.solver = resolve_solver(solver)
        self.gradient = resolve_gradient(gradient)
        self.T = T
        self.last_stats = Stats()

    def forward(self, x: Tensor, penalties: bool = False) -> Transport:
        """Carry x [B, d] from t = T back to t = 0, with RNODE's integrals (Finlay et al. 2020) if `penalties`."""
        if x.dim() != 2 or x.shape[1] != self.dim:
            raise ValueError(f"CNF expects x [B, {self.dim}], got {list(x.shape)}; build it with dim={x.shape[-1]}")
        estimate = self.training and self.trace == "hutchinson"
        args = (draw_noise(self.noise, x),) if estimate else ()
        start = (x, *[x.new_zeros(len(x)) for _ in range(3 if penalties else 1)])
        z, log_det, *integrals = self._solve(_Augmented(self.field, penalties), start, (self.T, 0.0), args)
        # from T to 0 an integral comes out negative: what log_det is, and the other two are not
        kinetic, jacobian = (-integral for integral in integrals) if penalties else (torch.zeros_like(log_det),) * 2
        return Transport(z, log_det, kinetic, jacobian)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) [B] in nats for x [B, d]; in training mode with trace="hutchinson" an unbiased estimate of it."""
        z, log_det, *_ = self(x)
        return self.base_log_prob(z) + log_det

    def base_log_prob(self, z: Tensor) -> Tensor:
        """log N(z; 0, I) [B] for z [B, d]."""
        return -0.5 * (z.square().sum(-1) + self.dim * math.log(2 * math.pi))

    def push(self, z: Tensor) -> Tensor:
        """Carry base points z [B, d] from t = 0 to t = T."""
        return self._solve(self.field, z, (0.0, self.T))

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n independent samples [n, d], in the precision of the parameters; `generator` on the CPU."""
        like = next(self.parameters(), torch.empty(0))
        z = torch.randn(n, self.dim, generator=generator, dtype=like.dtype)
        return self.push(z.to(like.device))

    def _solve(self, field: nn.Module, start: Any, times: tuple[float, float], args: tuple[Tensor, ...] = ()) -> Any:
        solution = solve(field, start, times, solver=self.solver, gradient=self.gradient, args=args, save_at="end")
        self.last_stats = solution.stats
        ys = solution.ys
        return ys[-1] if isinstance(ys, Tensor) else [y[-1] for y in ys]

    def extra_repr(self) -> str:
        return f"dim={self.dim}, T={self.T:g}, trace={self.trace!r}, solver={self.solver!r}, gradient={self.gradient}"


class _Augmented(nn.Module):
    """The field with its trace, and with `penalties` |f|^2 and |J|_F^2, beside the state."""

    def __init__(self, field: nn.Module, penalties: bool):
        super().__init__()
        self.field = field
        self.penalties = penalties

    def forward(self, t: Tensor, state: tuple[Tensor, ...], noise: Tensor | None = None) -> tuple[Tensor, ...]:
        x = state[0]
        if noise is None:
            value, trace, norm = exact_divergence(self.field, t, x)
        else:
            value, trace, norm = hutchinson_divergence(self.field, t, x, noise)
        return (value, trace, value.square().sum(-1), norm) if self.penalties else (value, trace)
