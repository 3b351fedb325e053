"""The Triton programs of ensembles, by the interpreter where there is no GPU, against the per-sample loop and PyTorch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from odenets.kernels.backend import interpreted
from odenets.solvers import Event, InputError, Status, solve

F64 = torch.float64
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [
    pytest.mark.skipif(DEVICE == "cpu" and not interpreted(), reason="neither a GPU nor TRITON_INTERPRET=1"),
    # the interpreter computes both sides of a selection
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


def forced(t, y, rho, beta):
    x, v, z = y.unbind(-1)
    return torch.stack([10 * (v - x) + torch.sin(t), x * (rho - z) - v, x * v - beta * z], -1)


def problem(dtype, batch=35):
    """More trajectories than one block."""
    y0 = torch.ones(batch, 3, dtype=dtype, device=DEVICE)
    rho = torch.linspace(0, 28, batch, dtype=dtype, device=DEVICE)
    return y0, (rho, torch.tensor(8 / 3, dtype=dtype, device=DEVICE))


@pytest.mark.parametrize(
    ("method", "dtype", "end", "outputs"),
    [("tsit5", F64, -0.1, 6), ("dopri5", torch.float32, 0.2, 2), ("rodas5p", F64, 0.1, 3)],
)
def test_same_steps_and_states_as_the_per_sample_loop(method, dtype, end, outputs):
    y0, args = problem(dtype)
    ts = torch.linspace(0, end, outputs, dtype=F64, device=DEVICE)
    settings = {"solver": method, "args": args, "rtol": 1e-5, "atol": 1e-5}
    ours = solve(forced, y0, ts, ensemble="triton", **settings)
    loop = solve(forced, y0, ts, per_sample=True, **settings)
    assert (ours.stats.accepted - loop.stats.accepted).abs().max() <= int(dtype == torch.float32)
    assert ours.ys.dtype == dtype
    tolerance = 1e-10 if dtype == F64 else 1e-3
    assert torch.allclose(ours.ys, loop.ys, rtol=tolerance, atol=tolerance)
    if dtype == F64:
        assert torch.equal(ours.stats.rejected, loop.stats.rejected)


@pytest.mark.parametrize("method", ["kvaerno3", "radauIIA5"])
def test_newtons_iteration_takes_the_steps_of_the_per_sample_loop(method, fresh_jacobians):
    y0, args = problem(F64, 3)
    ts = torch.linspace(0, 0.05, 3, dtype=F64, device=DEVICE)
    settings = {"solver": method, "args": args, "rtol": 1e-4, "atol": 1e-4}
    ours = solve(forced, y0, ts, ensemble="triton", **settings)
    loop = solve(forced, y0, ts, per_sample=True, **settings)
    assert torch.equal(ours.stats.accepted, loop.stats.accepted)
    assert torch.equal(ours.stats.rejected, loop.stats.rejected)
    assert torch.allclose(ours.ys, loop.ys, rtol=1e-10, atol=1e-10)
    assert ours.stats.iterations > ours.stats.jacobians > 1


def test_gradients_are_those_of_the_loop():
    size = {"solver": "bosh3", "first_step": 0.05, "min_step": 0.05, "max_step": 0.05}
    found = []
    for how in ({"ensemble": "triton"}, {"per_sample": True}):
        y0, (rho, beta) = problem(F64, 3)
        for x in (y0, rho, beta):
            x.requires_grad_(True)
        ys = solve(forced, y0, torch.linspace(0, 0.2, 3, device=DEVICE), args=(rho, beta), **size, **how).ys
        found.append(torch.autograd.grad(ys.square().sum(), (y0, rho, beta)))
    for ours, theirs in zip(*found):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_every_function():
    functions = [
        torch.tanh, torch.sinh, torch.cosh, torch.expm1, torch.log1p, torch.tan, torch.erf, torch.floor, torch.ceil,
        torch.abs, torch.sign, torch.sigmoid, torch.nn.functional.gelu,
        lambda x: (x.abs() + 1) ** 0.7, lambda x: x.abs() ** (x + 2),
        lambda x: torch.maximum(x, 0.1 - x), lambda x: torch.clamp(x, -0.5, 0.3), lambda x: x**-3,
        lambda x: ((x > -0.3) & ~(x > 0.3)).to(x.dtype),
    ]  # fmt: skip

    def field(t, y, x):
        return torch.stack([f(x) for f in functions], -1)

    x = torch.tensor([-0.9, -0.3, -1e-9, 1e-5, 0.2, 0.8], dtype=F64, device=DEVICE)
    y0 = torch.zeros(6, len(functions), dtype=F64, device=DEVICE)
    settings = {"solver": "adaptive_heun", "first_step": 1.0, "rtol": 1.0}
    ys = solve(field, y0, (0.0, 1.0), args=(x,), ensemble="triton", **settings).ys
    assert torch.allclose(ys[-1], field(None, None, x), rtol=1e-13, atol=0)


def test_events_and_failures():
    """Free fall from x0 reaches the floor at sqrt(x0 / 4); the last trajectory starts with NaN."""
    heights = torch.tensor([1.0, 3.0, 0.25, torch.nan], dtype=F64, device=DEVICE)
    start = torch.stack([heights, torch.zeros_like(heights)], -1)

    def falling(t, s):
        return torch.stack([s[:, 1], torch.full_like(s[:, 1], -8.0)], -1)

    events = [
        Event(lambda t, s: s[:, 0], terminal=True),
        Event(lambda t, s: s[:, 0] - 0.5),
        Event(lambda t, s: torch.sin(10 * t), direction=-1),
    ]
    ts = torch.linspace(0, 3, 7, dtype=F64, device=DEVICE)
    solution = solve(falling, start, ts, events=events, max_step=0.25, ensemble="triton", throw=False)
    assert solution.status.tolist() == [Status.EVENT] * 3 + [Status.NON_FINITE]
    floor, half, clock = solution.events
    assert torch.allclose(floor.ts[0, :3], (heights[:3] / 4).sqrt(), rtol=0, atol=1e-14)
    assert half.count.tolist() == [1, 1, 0, 0]
    assert torch.allclose(half.ts[0, :2], ((heights[:2] - 0.5) / 4).sqrt(), rtol=0, atol=1e-14)
    assert torch.allclose(half.ys[0, :2, 0], torch.full((2,), 0.5, dtype=F64, device=DEVICE), atol=1e-13)
    assert clock.count.tolist() == [1, 1, 0, 0]
    assert torch.allclose(clock.ts[0, :2], torch.full((2,), torch.pi / 10, dtype=F64, device=DEVICE), atol=1e-14)
    exact = heights[:3] - 4 * ts[:, None] ** 2
    arrived = ts[:, None] <= floor.ts[0, :3]
    assert torch.allclose(solution.ys[:, :3, 0][arrived], exact[arrived], atol=1e-12)
    assert solution.ys[:, :3, 0][~arrived].isnan().all()


def test_a_function_without_a_formula_is_named():
    y0, _ = problem(F64, 2)
    with pytest.raises(InputError, match="no atan on a GPU"):
        solve(lambda t, y: torch.atan(y), y0, (0.0, 1.0), ensemble="triton")


@pytest.mark.slow  # nine kernels of about five seconds of compiling
def test_kernels_compile_for_a_gpu():
    command = [sys.executable, "-m", "tests.solvers.ensemble_for_gpu"]
    # compiled kernels and interpreted ones cannot live in one process
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    stack = {
        name.strip(): int(bytes_) for name, bytes_ in re.findall(r"^(\w.*?) +\d+ +(\d+)$", done.stdout, re.MULTILINE)
    }
    assert len(stack) == 9
    assert stack["tsit5"] == stack["tsit5, 32 bits"] == stack["rodas5p, 9 outputs"] == stack["kvaerno3, 9 outputs"] == 0
