"""The systems that solvers are compared on, and their solutions and gradients by other means than any that are timed.

A batch of 65536 repeats 256 different starts (Robertson: 16), and the loss is a mean over the batch: the reference of a
few trajectories is that of the whole batch, and every state of it is checked.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import torch
import torchdiffeq
from problems import MLP
from scipy.integrate import solve_ivp
from torch import Tensor, nn

F64 = torch.float64


@dataclasses.dataclass(frozen=True, eq=False)
class System:
    """dy/dt = field(t, y) from y0 to t = end; the loss to differentiate is the batch's mean of |y(end)|^2.

    Attributes:
        field: module f(t, y), y [batch, n].
        distinct: different starts [rows, n], the first is that of a batch of one.
        scale: absolute over relative tolerance.
        allowed: error that still counts as right, in tolerances: what the flow makes of the errors of the steps.
        allowed_gradient: the same for the gradient.
        plain: f(t, y) on one state of Python numbers (or an array), for scipy.
    """

    name: str
    title: str
    field: nn.Module
    distinct: Tensor
    end: float
    plain: Callable[[float, np.ndarray], object]
    allowed: float = 100.0
    allowed_gradient: float = 100.0
    scale: float = 1.0
    stiff: bool = False

    def y0(self, batch: int) -> Tensor:
        """[batch, n]: the different starts, over and over."""
        return self.distinct.repeat(-(-batch // len(self.distinct)), 1)[:batch].contiguous()

    def weights(self) -> dict[str, np.ndarray]:
        """The field's parameters."""
        return {name: parameter.detach().numpy() for name, parameter in self.field.named_parameters()}

    def reference(self, batch: int) -> list[Tensor]:
        """State at the end [batch, n], gradients of the loss with respect to y0 and to the parameters."""
        rows = min(batch, len(self.distinct))
        y, of_y0, *of_parameters = _reference(self, rows)
        repeats = -(-batch // rows)
        return [y.repeat(repeats, 1), of_y0.repeat(repeats, 1) * (rows / batch), *of_parameters]

    def errors(self, found: list[Tensor], batch: int) -> tuple[float, float | None]:
        """Of the states, the largest of |y - exact| / (scale + |exact|); of the gradients, the largest of
        |g - exact| / |exact| over y0 and the parameters, None without gradients."""
        exact = self.reference(batch)
        state = float(((found[0] - exact[0]).abs() / (self.scale + exact[0].abs())).nan_to_num(torch.inf).max())
        if len(found) == 1:
            return state, None
        pairs = zip(found[1:], exact[1:], strict=True)
        return state, max(float(((g - e).norm() / e.norm()).nan_to_num(torch.inf)) for g, e in pairs)


@functools.cache
def _reference(system: System, rows: int) -> list[Tensor]:
    """By scipy's LSODA on the variational equations, or through steps of torchdiffeq's dopri8, both at 1e-12."""
    return _by_sensitivities(system, rows) if system.stiff else _through_small_steps(system, rows)


def loss(y: Tensor) -> Tensor:
    return y.square().sum(-1).mean()


def _through_small_steps(system: System, rows: int) -> list[Tensor]:
    y0, ts = system.y0(rows).requires_grad_(), torch.tensor([0.0, system.end], dtype=F64)
    to_the_end = {"step_t": ts[-1:]}  # else the last state is interpolated, to less than the steps' precision
    y = torchdiffeq.odeint(
        system.field, y0, ts, rtol=1e-12, atol=1e-12, method="dopri8", options=to_the_end
    )[-1]  # fmt: skip
    return [y.detach(), *torch.autograd.grad(loss(y), [y0, *system.field.parameters()])]


def _robertson_with_sensitivities(t: float, z: np.ndarray, slow: float, fast: float, back: float) -> np.ndarray:
    """y and its derivatives [3, 6] by y0 and by the logarithms of the three rates."""
    a, b, c = z[:3]
    first, second, third = slow * a, fast * b * b, back * b * c
    by_y = np.array(
        [[-slow, back * c, back * b], [slow, -back * c - 2 * fast * b, -back * b], [0.0, 2 * fast * b, 0.0]]
    )
    s = by_y @ z[3:].reshape(3, 6)
    s[0] += 0, 0, 0, -first, 0, third
    s[1] += 0, 0, 0, first, -second, -third
    s[2] += 0, 0, 0, 0, second, 0
    return np.array([third - first, first - second - third, second, *s.reshape(-1)])


def _by_sensitivities(system: System, rows: int) -> list[Tensor]:
    rates = [parameter.item() for parameter in system.field.parameters()]
    ends = []
    for y0 in system.distinct[:rows]:
        z0 = np.concatenate([y0.numpy(), np.eye(3, 6).reshape(-1)])
        found = solve_ivp(
            _robertson_with_sensitivities,
            (0, system.end),
            z0,
            "LSODA",
            rtol=1e-12,
            atol=1e-12 * system.scale,
            args=rates,
        )
        ends.append(torch.from_numpy(found.y[:, -1]))
    z = torch.stack(ends)
    y, s = z[:, :3], z[:, 3:].reshape(rows, 3, 6)
    gradient = torch.einsum("bi,bij->bj", 2 * y / rows, s)
    return [y, gradient[:, :3], *(gradient[:, 3:].sum(0) / torch.tensor(rates, dtype=F64)).unbind()]


class VanDerPol(nn.Module):
    """x'' = mu (1 - x^2) x' - x."""

    def __init__(self, mu: float) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(mu, dtype=F64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        x, v = y.unbind(-1)
        return torch.stack([v, self.mu * (1 - x * x) * v - x], dim=-1)


class Lorenz(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sigma, self.rho, self.beta = (
            nn.Parameter(torch.tensor(value, dtype=F64)) for value in (10.0, 28.0, 8 / 3)
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, b, c = y.unbind(-1)
        return torch.stack([self.sigma * (b - a), a * (self.rho - c) - b, a * b - self.beta * c], dim=-1)


class Robertson(nn.Module):
    """Three reactions, rates nine orders of magnitude apart."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast, self.back = (nn.Parameter(torch.tensor(value, dtype=F64)) for value in (0.04, 3e7, 1e4))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, b, c = y.unbind(-1)
        first, second, third = self.slow * a, self.back * b * c, self.fast * b * b
        return torch.stack([second - first, first - second - third, third], dim=-1)


def systems(rows: int = 256) -> list[System]:
    """All of them; `rows` different starts (Robertson: a sixteenth)."""
    spread = torch.linspace(0, 1, rows, dtype=F64)
    random = torch.Generator().manual_seed(0)
    normal = torch.randn(rows, 8, dtype=F64, generator=random)
    torch.manual_seed(0)
    mlp = MLP(8, 32, gain=2.0).double()
    (w1, b1), (w2, b2) = ([p.detach().numpy() for p in mlp.net[i].parameters()] for i in (0, 2))
    fractions = torch.linspace(1, 0.5, max(rows // 16, 1), dtype=F64)
    return [
        System(
            "vdp", "van der Pol, mu = 10, t in [0, 11], starts (1.9 ... 2.1, 0): through one jump each",
            VanDerPol(10.0), torch.stack([1.9 + 0.2 * spread, torch.zeros_like(spread)], 1), 11.0,
            lambda t, y: (y[1], 10.0 * (1 - y[0] * y[0]) * y[1] - y[0]),
            allowed_gradient=5000.0,  # within the jump the derivatives pass through hundreds
        ),
        System(
            "lorenz", "Lorenz, t in [0, 2], starts within 0.1 of (1, 1, 1)",
            Lorenz(), 1 + 0.1 * normal[:, :3].tanh(), 2.0,
            lambda t, y: (10.0 * (y[1] - y[0]), y[0] * (28.0 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]),
            allowed_gradient=1000.0,  # of an unstable orbit
        ),
        System(
            "mlp", "MLP 8 -> 32 -> 8 (tanh), t in [0, 4]",
            mlp, normal.clone(), 4.0, lambda t, y: w2 @ np.tanh(w1 @ y + b1) + b2,
        ),
        System(
            "robertson", "Robertson's reactions (stiff), t in [0, 100], starts (a, 0, 1 - a), a = 0.5 ... 1",
            Robertson(), torch.stack([fractions, torch.zeros_like(fractions), 1 - fractions], 1), 100.0,
            lambda t, y: (
                1e4 * y[1] * y[2] - 0.04 * y[0],
                0.04 * y[0] - 1e4 * y[1] * y[2] - 3e7 * y[1] * y[1],
                3e7 * y[1] * y[1],
            ),
            scale=1e-4, stiff=True,
        ),
    ]  # fmt: skip
