"""The initial value problems that solvers are compared on, with references that no compared library computes."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn


@dataclass(frozen=True)
class Problem:
    """dy/dt = field(t, y), y(0) = y0 up to t = end.

    Attributes:
        title: one line for a reader.
        field: module f(t, y), t [] or [batch].
        y0: [batch, features]; its dtype is the solve's.
        end: last time.
        intervals: between outputs, equally long; the first output is at end / intervals.
        tolerance: relative and absolute.
        allowed: error that still counts as correct, in multiples of the tolerance. Above 1 because the tolerance bounds
            the error of one step, which the flow then amplifies.
        allowed_gradient: the same for the gradient's relative error.
        repeats: timed rounds.
        reference: (problem, ts [T]) -> states [T, batch, features] at the times; given the problem in float64.
    """

    name: str
    title: str
    field: nn.Module
    y0: Tensor
    end: float
    intervals: int
    tolerance: float
    allowed: float
    repeats: int
    reference: Callable[[Problem, Tensor], Tensor]
    allowed_gradient: float | None = None

    def times(self, stretch: int = 1) -> Tensor:
        """Output times with the start first [T]; `stretch` times as long, with equally dense outputs if several."""
        intervals = self.intervals * stretch if self.intervals > 1 else 1
        return torch.linspace(0, self.end * stretch, intervals + 1, dtype=torch.float64)

    def double(self) -> Problem:
        """The same in float64, with a field of its own."""
        return dataclasses.replace(self, field=copy.deepcopy(self.field).double(), y0=self.y0.double())


class Decay(nn.Module):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -y


class VanDerPol(nn.Module):
    """x'' = mu (1 - x^2) x' - x."""

    def __init__(self, mu: float) -> None:
        super().__init__()
        self.mu = mu

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        x, v = y.unbind(-1)
        return torch.stack([v, self.mu * (1 - x * x) * v - x], dim=-1)


class MLP(nn.Module):
    """Two linear layers with tanh between them, weights enlarged so that the flow is not close to the identity."""

    def __init__(self, features: int, hidden: int, gain: float) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, features))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(gain)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


def closed_form_decay(problem: Problem, ts: Tensor) -> Tensor:
    return problem.y0 * torch.exp(-ts)[:, None, None]


def scipy_reference(problem: Problem, ts: Tensor) -> Tensor:
    """DOP853 of SciPy at tolerances of 1e-12, one trajectory at a time in chunks of 16."""
    parts = []
    for y0 in problem.y0.split(16):

        def flat(t: float, y: np.ndarray, shape: torch.Size = y0.shape) -> np.ndarray:
            return problem.field(torch.tensor(t), torch.from_numpy(y).reshape(shape)).reshape(-1).numpy()

        start = y0.reshape(-1).numpy()
        found = solve_ivp(flat, (0, float(ts[-1])), start, "DOP853", ts.numpy(), rtol=1e-12, atol=1e-12)
        parts.append(torch.from_numpy(found.y.T).reshape(len(ts), *y0.shape))
    return torch.cat(parts, dim=1)


def rk4_reference(problem: Problem, ts: Tensor) -> Tensor:
    """Classical Runge-Kutta with steps of about 1 / 180; differentiable. Refuses to be inexact."""
    steps = 2 * math.ceil(float(ts[1] - ts[0]) * 90)
    ys = _rk4(problem.field, problem.y0, ts, steps)
    with torch.no_grad():
        change = float((ys - _rk4(problem.field, problem.y0, ts, steps // 2)).abs().max())
    if change > problem.tolerance / 100:
        raise ArithmeticError(f"the reference moves by {change:.1e} with its step: needs smaller steps")
    return ys


def _rk4(field: nn.Module, y: Tensor, ts: Tensor, steps: int) -> Tensor:
    outputs = [y]
    for t0, t1 in itertools.pairwise(ts):
        h = float(t1 - t0) / steps
        for _ in range(steps):
            k1 = field(t0, y)
            k2 = field(t0, y + h / 2 * k1)
            k3 = field(t0, y + h / 2 * k2)
            k4 = field(t0, y + h * k3)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        outputs.append(y)
    return torch.stack(outputs)


def problems(quick: bool) -> list[Problem]:
    """The three problems; `quick` makes them small enough for a test."""
    torch.manual_seed(0)
    decay = torch.rand(64, 2, dtype=torch.float64) + 0.5
    samples, end, intervals = (16, 0.5, 10) if quick else (256, 10.0, 200)
    radius = torch.rand(samples, 1, dtype=torch.float64) * 1.5 + 0.5
    angle = torch.rand(samples, 1, dtype=torch.float64) * 2 * torch.pi
    oscillator = radius * torch.cat([angle.cos(), angle.sin()], dim=1)
    mlp, batch, mlp_end = MLP(64, 128, gain=2.0), *((16, 1.0) if quick else (128, 4.0))
    state = torch.randn(batch, 64)
    return [
        Problem(
            "decay", "y' = -y, state [64, 2] fp64, t in [0, 5], output at the end",
            Decay(), decay, 5.0, 1, 1e-6, 3, 3 if quick else 31, closed_form_decay,
        ),
        Problem(
            "van_der_pol",
            f"van der Pol, mu = 10, {samples} trajectories fp64, t in [0, {end:g}], {intervals} outputs",
            VanDerPol(10.0), oscillator, end, intervals, 1e-6, 200, 2 if quick else 7, scipy_reference,
        ),
        Problem(
            "mlp", f"MLP 64 -> 128 -> 64 (tanh), state [{batch}, 64] fp32, t in [0, {mlp_end:g}], 10 outputs",
            mlp, state, mlp_end, 9, 1e-6, 10, 2 if quick else 15, rk4_reference, allowed_gradient=20,
        ),
    ]  # fmt: skip
