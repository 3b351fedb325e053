"""Whole solves on a GPU: ours beside torchdiffeq's where that is installed, the error before the time.

Lorenz systems at 1e-5 by dopri5, eager with one step size and one for each, compiled, and as an ensemble; and rk4 with
fixed steps along a network's field, eager, compiled and as a CUDA graph. Contenders take turns, the device is waited for.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from odenets import solve

ROUNDS, LONG = 5, 10.0  # rounds; seconds of a solve that is not repeated
TOLERANCE, STEPS = 1e-5, 100


@dataclass
class Problem:
    """Contenders return the state at the end; it may differ from `exact` by `allowed` (1 + |exact|)."""

    title: str
    exact: Tensor
    allowed: float
    contenders: dict[str, Callable[[], Tensor]]


class Network(nn.Module):
    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, features))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


def lorenz(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], -1)


def odeint() -> Callable[..., Tensor] | None:
    try:
        import torchdiffeq
    except ImportError:
        return None
    return torchdiffeq.odeint


def adaptive(batch: int, device: str, compiled: bool) -> Problem:
    """16 different starts over and over, so that the exact answer is that of 16."""
    starts = 1 + 0.1 * torch.linspace(-1, 1, 16, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.5, -1.0])
    exact = solve(lorenz, starts, (0.0, 2.0), solver="dopri8", rtol=1e-12, atol=1e-12).ys[-1]
    y0, ts = starts.repeat(batch // 16, 1).to(device), torch.tensor([0.0, 2.0], dtype=torch.float64, device=device)

    def ours(**settings: Any) -> Callable[[], Tensor]:
        return lambda: solve(lorenz, y0, ts, rtol=TOLERANCE, atol=TOLERANCE, **settings).ys[-1]

    contenders = {"eager": ours(), "eager, per sample": ours(per_sample=True), "ensemble": ours(ensemble=True)}
    if compiled:
        contenders["compiled"] = ours(compile="solve")
        contenders["compiled, per sample"] = ours(compile="solve", per_sample=True)
    if peer := odeint():
        settings = {"rtol": TOLERANCE, "atol": TOLERANCE, "method": "dopri5"}
        contenders["torchdiffeq"] = lambda: peer(lorenz, y0, ts, **settings)[-1]
    title = f"Lorenz, {batch} trajectories, dopri5, {TOLERANCE:g}, float64, t in [0, 2]"
    return Problem(title, exact.repeat(batch // 16, 1).to(device), 100 * TOLERANCE, contenders)


def fixed(batch: int, features: int, device: str, compiled: bool) -> Problem:
    torch.manual_seed(0)
    network, start = Network(features, 2 * features), torch.randn(batch, features)
    double = Network(features, 2 * features).double()
    double.load_state_dict(network.state_dict())
    exact = solve(double, start.double(), (0.0, 1.0), solver="rk4", steps=STEPS).ys[-1]
    y0, ts = start.to(device), torch.tensor([0.0, 1.0], device=device)
    field = network.to(device)

    def ours(mode: bool | str) -> Callable[[], Tensor]:
        return lambda: solve(field, y0, ts, solver="rk4", steps=STEPS, compile=mode).ys[-1]

    contenders = {"eager": ours(False)}
    if compiled:
        contenders |= {"compiled": ours("solve"), "CUDA graph": ours("cuda_graph")}
    if peer := odeint():
        options = {"step_size": 1 / STEPS}
        contenders["torchdiffeq"] = lambda: peer(field, y0, ts, method="rk4", options=options)[-1]
    title = f"MLP {features} -> {2 * features} -> {features}, state [{batch}, {features}] float32, rk4, {STEPS} steps"
    return Problem(title, exact.to(device), 1e-3, contenders)  # TF32 may be on


def measure(dry: bool) -> list[dict[str, Any]]:
    """A row for every contender: error, then seconds to the first result and of the rounds, or a note. On the CPU
    (`dry`) nothing is compiled but the ensemble, and nothing timed."""
    device = "cpu" if dry else "cuda"
    problems = [
        lambda: adaptive(32 if dry else 65536, device, not dry),
        lambda: fixed(4 if dry else 4096, 8 if dry else 256, device, not dry),
    ]
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for problem in problems:
            rows += _measure(problem(), dry)
    return rows


def _measure(problem: Problem, dry: bool) -> list[dict[str, Any]]:
    rows, turns = [], []
    for name, run in problem.contenders.items():
        row: dict[str, Any] = {"problem": problem.title, "contender": name}
        rows.append(row)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "solved eagerly")  # it would not be what its name says
                row["first_s"], y = _timed(run)
        except Exception as error:  # refused, or a peer that fails: the others are still measured
            row["note"] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            continue
        row["error"] = float(
            ((y.double() - problem.exact).abs() / (1 + problem.exact.abs())).nan_to_num(torch.inf).max()
        )
        if row["error"] > problem.allowed:
            row["note"] = "wrong: no speed"
        else:
            turns.append((row, run))
    taken: dict[str, list[float]] = {row["contender"]: [] for row, _ in turns}
    for _ in range(0 if dry else ROUNDS):
        for row, run in turns:
            if not taken[row["contender"]] or taken[row["contender"]][0] < LONG:
                taken[row["contender"]].append(_timed(run)[0])
    for row, _ in turns if not dry else ():
        row["ms"] = 1e3 * statistics.median(taken[row["contender"]])
        row["rounds_ms"] = [1e3 * seconds for seconds in taken[row["contender"]]]
    return rows


def _timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    began = time.perf_counter()
    y = run()
    if y.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began, y


def line(row: dict[str, Any]) -> str:
    if "ms" in row:
        what = f"{row['ms']:10.2f} ms  error {row['error']:.1e}, {row['first_s']:.1f} s to the first result"
    else:
        what = row.get("note", "not measured")
    return f"{row['problem']}: {row['contender']:<22}{what}"
