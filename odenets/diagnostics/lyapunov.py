"""Lyapunov exponents: of a vector field along its trajectories, and finite-time ones of a stack."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

from odenets.blocks.runge_kutta import explicit_step, explicit_tableau
from odenets.diagnostics.jacobian import Jacobian, plain_attention
from odenets.diagnostics.result import Result, host
from odenets.diagnostics.spectrum import random_start
from odenets.diagnostics.trace import trace
from odenets.models import FlowStack
from odenets.solvers import ButcherTableau


@dataclass
class LyapunovExponents(Result):
    """Mean rates of growth of k orthogonal perturbations: largest first, once they have settled.

    Attributes:
        exponents: [B, k] per unit of time.
        times: [M], when the perturbations were made orthogonal again, counted from the end of the transient.
        history: [M, B, k], the exponents as of these times: how far they have settled.
    """

    exponents: Tensor
    times: Tensor
    history: Tensor


@torch.no_grad()
def lyapunov_exponents(
    field: Callable[..., Tensor],
    x0: Tensor,
    time: float,
    k: int | None = None,
    dt: float = 0.01,
    transient: float = 0.0,
    every: int = 1,
    method: str = "rk4",
    t0: float = 0.0,
    seed: int = 0,
) -> LyapunovExponents:
    """The k largest Lyapunov exponents along the trajectories from x0 (Benettin, Galgani, Giorgilli, Strelcyn 1980).

    Perturbations are carried along by the derivative of the solver's own step and made orthonormal by QR every few
    steps; the logarithms of R's diagonal add up to the exponents. On an ergodic attractor the mean over a batch of
    starting points converges like one trajectory of the whole length.

    Args:
        field: f(t, x) -> dx/dt, differentiable forward, samples independent of each other.
        x0: [B, ...].
        time: over which the growth is averaged.
        k: how many; None takes all.
        dt: step size of the solver.
        transient: time that the trajectory and the perturbations take to settle, not counted.
        every: steps between two QR decompositions: perturbations must not grow by more than about 1e7 between them.
        method: an explicit Runge-Kutta method.
        t0: initial time.
        seed: of the random perturbations.

    Raises:
        ValueError: time or dt not positive, transient negative, k outside 1 .. n, every < 1, or an unknown method.
    """
    shape, batch = x0.shape[1:], len(x0)
    size = shape.numel()
    k = size if k is None else k
    if not (time > 0 and dt > 0 and transient >= 0 and every >= 1 and 1 <= k <= size):
        raise ValueError(
            f"expected time > 0, dt > 0, transient >= 0, every >= 1 and 1 <= k <= {size}, got time={time}, dt={dt}, "
            f"transient={transient}, every={every}, k={k}"
        )
    tableau = explicit_tableau(method)
    rounds, waiting = max(1, round(time / dt / every)), math.ceil(transient / dt / every)
    x = x0.repeat_interleave(k, dim=0)  # a copy of the state for each of its perturbations: [B k, ...]
    q = _orthonormal(x0, k, seed)
    sums, t = x0.new_zeros(batch, k, dtype=torch.float64), t0
    history: list[Tensor] = []
    for number in range(waiting + rounds):
        x, moved = _moved(field, tableau, t, x, q.mT.reshape(x.shape), dt, every)
        t = t0 + (number + 1) * every * dt
        q, r = torch.linalg.qr(moved.reshape(batch, k, size).mT)
        if number >= waiting:
            sums = sums + r.diagonal(dim1=1, dim2=2).abs().double().log()
            history.append(sums)
    times = torch.arange(1, rounds + 1, dtype=torch.float64) * (every * dt)
    return _result(history, times)


def _moved(
    field: Callable[..., Tensor], tableau: ButcherTableau, t: float, x: Tensor, v: Tensor, dt: float, steps: int
) -> tuple[Tensor, Tensor]:
    """The state and a perturbation v of it after some steps of a solver."""
    with plain_attention(), forward_ad.dual_level():
        dual = forward_ad.make_dual(x, v)
        for step in range(steps):
            dual = explicit_step(field, tableau, t + step * dt, dual, dt)
        x, moved = forward_ad.unpack_dual(dual)
    return x, moved


def depth_exponents(
    stack: FlowStack, x: Tensor, context: Mapping[str, Tensor] | None = None, k: int = 4, seed: int = 0
) -> LyapunovExponents:
    """Finite-time exponents of a stack along an input x [B, ...]: the growth of k perturbations of its state per unit
    of integration time, orthogonal again after every step.

    Raises:
        ValueError: a block whose state changes its size.
    """
    steps = trace(stack, x, context)
    q, sums = torch.empty(0), torch.zeros(len(x), 1, dtype=torch.float64)
    history: list[Tensor] = []
    for step in steps:
        jacobian = Jacobian(step.map, step.state)
        _, m, n = jacobian.shape
        if m != n:
            raise ValueError(
                f"{type(step.block).__name__} changes the size of the state, from {n} to {m} numbers: growth from "
                "layer to layer has no meaning there; look at layer_spectra"
            )
        if not history:
            q = _orthonormal(jacobian.state, min(k, n), seed)
        moved = torch.stack([jacobian.apply(v) for v in q.unbind(2)], dim=2)
        q, r = torch.linalg.qr(moved)
        sums = sums + host(r.diagonal(dim1=1, dim2=2).abs()).double().log()
        history.append(sums)
    times = torch.tensor([step.h for step in steps], dtype=torch.float64).cumsum(0)
    return _result(history, times)


def _orthonormal(x: Tensor, k: int, seed: int) -> Tensor:
    """Random orthonormal perturbations [B, n, k] of the states x [B, ...]."""
    flat = x.flatten(1)
    columns = torch.stack([random_start(flat, seed * 1000 + i) for i in range(k)], dim=2)
    return torch.linalg.qr(columns)[0]


def _result(history: list[Tensor], times: Tensor) -> LyapunovExponents:
    rates = host(torch.stack(history)) / times[:, None, None]
    return LyapunovExponents(rates[-1], times, rates)
