"""Compiled solves beside torchdiffeq, torchode and diffrax: one run, taking turns, results checked before anything is timed.

    python benchmarks/compiled.py [--quick] [--diffrax PYTHON] [--rounds N] [--threads N] [--only NAME]
        [--json PATH] [--markdown PATH]

`--diffrax` names the interpreter of an environment that has diffrax; it runs in a process of its own, on the same threads,
and solves when it is its turn; a turn is as many calls as fill 20 ms, at least one. Compile time is the first call's. What
misses the accuracy gate prints no speed.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchdiffeq
import torchode
from measure import describe_run
from problems import MLP, VanDerPol
from torch import Tensor

from odenets import solve
from odenets.solvers import PIDController

PACKAGES = ("torch", "torchdiffeq", "torchode", "numpy")
TOLERANCE, ALLOWED = 1e-5, 1e4  # a stiff oscillator: its phase is off by thousands of tolerances, whoever solves it


TURN = 0.02  # seconds


def turn(run: Callable[[], Any]) -> float:
    """Seconds of a call, from as many as fill a turn."""
    calls, started = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - started < TURN:
        run()
        calls += 1
    return (time.perf_counter() - started) / calls


@dataclass
class Contender:
    """One way to solve: `run() -> result`; `timed() -> seconds` where it is not timed here."""

    name: str
    run: Callable[[], Tensor]
    timed: Callable[[], float] | None = None
    compile: float = 0.0
    error: float = 0.0
    seconds: list[float] = field(default_factory=list)

    def once(self) -> float:
        return self.timed() if self.timed is not None else turn(self.run)


@dataclass
class Case:
    """Errors are divided by `floor` plus the size of the reference."""

    title: str
    contenders: list[Contender]
    reference: Tensor
    allowed: float
    rounds: int
    floor: float = 1.0


def van_der_pol(batch: int, per_sample: bool, diffrax: str | None, stack: contextlib.ExitStack, rounds: int) -> Case:
    torch.manual_seed(0)
    y0 = torch.randn(batch, 2, dtype=torch.float64) * 0.5 + torch.tensor([2.0, 0.0], dtype=torch.float64)
    if batch == 1:
        y0 = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    ts, oscillator = torch.linspace(0, 10, 201, dtype=torch.float64), VanDerPol(10.0)

    def ours(mode: bool | str) -> Callable[[], Tensor]:
        return lambda: solve(
            oscillator, y0, ts, rtol=TOLERANCE, atol=TOLERANCE, per_sample=per_sample, compile=mode
        ).ys  # fmt: skip

    contenders = [Contender("odenets, compiled", ours("solve")), Contender("odenets, eager", ours(False))]
    if per_sample:
        term = torchode.ODETerm(oscillator)
        loop = torchode.AutoDiffAdjoint(
            torchode.Dopri5(term=term), torchode.IntegralController(TOLERANCE, TOLERANCE, term=term)
        )
        points = torchode.InitialValueProblem(y0, ts[0].expand(batch), ts[-1].expand(batch), ts.expand(batch, -1))
        contenders.append(Contender("torchode", lambda: loop.solve(points).ys.transpose(0, 1)))
        compiled = torch.compile(loop.solve)
        contenders.append(Contender("torchode, solve compiled", lambda: compiled(points).ys.transpose(0, 1)))
    else:
        settings = {"rtol": TOLERANCE, "atol": TOLERANCE, "method": "dopri5"}
        contenders.append(Contender("torchdiffeq", lambda: torchdiffeq.odeint(oscillator, y0, ts, **settings)))
    if diffrax:
        contenders.append(stack.enter_context(beside(diffrax, "per_sample" if per_sample else "joint", y0)))
    reference = torchdiffeq.odeint(oscillator, y0, ts, rtol=1e-11, atol=1e-11, method="dopri8")
    clock = "a step size per trajectory" if per_sample else "one step size"
    what = f"{batch} trajectories, {clock}" if batch > 1 else "one trajectory"
    title = f"van der Pol, mu = 10, {what}, dopri5, {TOLERANCE:g}, float64, t in [0, 10], 200 outputs"
    return Case(title, contenders, reference, ALLOWED * TOLERANCE, rounds)


@contextlib.contextmanager
def beside(
    python: str, clock: str, starts_of: Tensor, end: float = 10, tolerance: float = TOLERANCE
) -> Iterator[Contender]:
    """diffrax in a process of its own."""
    script = Path(__file__).with_name("compiled_diffrax.py")
    with tempfile.TemporaryDirectory() as folder:
        starts = str(Path(folder) / "starts.npy")
        np.save(starts, starts_of.numpy())
        threads = torch.get_num_threads()
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" if threads == 1 else ""
        process = subprocess.Popen(
            [python, str(script), clock, starts, str(end), "200", str(tolerance)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": ""},
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        ys = torch.from_numpy(np.load(starts + ".ys.npy"))
        stdin, stdout = process.stdin, process.stdout

        def timed() -> float:
            stdin.write("run\n")
            stdin.flush()
            return json.loads(stdout.readline())["seconds"]

        name = f"diffrax {started['versions']['diffrax']}, jit" + {
            "joint": "",
            "gradient": ", its default gradient",
        }.get(clock, " of vmap")
        try:
            yield Contender(name, lambda: ys, timed, compile=started["compile"])
        finally:
            stdin.close()
            process.wait()


def robertson(batch: int, diffrax: str | None, stack: contextlib.ExitStack, rounds: int) -> Case:
    """Stiff reactions; three methods of ours, and of each two ways to run it."""
    rates = torch.logspace(-1, 1, batch, dtype=torch.float64) if batch > 1 else torch.ones(1, dtype=torch.float64)
    y0, end = torch.tensor([1.0, 0, 0], dtype=torch.float64).repeat(batch, 1), 1e4

    def field(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        a, b, c = y.unbind(-1)
        first, second, third = 0.04 * rate * a, 1e4 * b * c, 3e7 * b**2
        return torch.stack([second - first, first - second - third, third], -1)

    def run(method: str, mode: bool | str, rtol: float = 1e-6, atol: float = 1e-10) -> Tensor:
        settings: dict[str, Any] = {"solver": method, "rtol": rtol, "atol": atol, "compile": mode, "save_at": "end"}
        if batch == 1:
            return solve(field, y0[0], (0.0, end), args=(rates[0],), **settings).ys
        return solve(field, y0, (0.0, end), args=(rates,), per_sample=True, **settings).ys[-1]

    contenders = [
        Contender(f"odenets, {method}, {words}", functools.partial(run, method, mode))
        for mode, words in (("solve", "compiled"), (False, "eager"))
        for method in ("kvaerno5", "rodas5p", "radauIIA5")
    ]
    if diffrax:
        contenders.append(stack.enter_context(beside(diffrax, "robertson", rates, end, 1e-6)))
        contenders[-1].name = contenders[-1].name.replace(",", ", Kvaerno5,", 1)
    what = f"{batch} trajectories, a step size per trajectory" if batch > 1 else "one trajectory"
    title = f"Robertson, slow rate over two decades, {what}, rtol 1e-6, atol 1e-10, float64, t in [0, 1e4], the end"
    title = title if batch > 1 else title.replace(" slow rate over two decades,", "")
    return Case(title, contenders, run("radauIIA5", False, 1e-9, 1e-14), 1e-4, rounds, floor=0.0)


def fixed_steps(backward: bool, rounds: int) -> Case:
    torch.manual_seed(0)
    network, y0, t = MLP(64, 128, gain=1.0), torch.randn(128, 64), torch.zeros(())
    bare = torch.compile(network, options={"cpp_wrapper": True})

    def evaluations() -> Tensor:
        y = y0
        for _ in range(400):
            y = bare(t, y0)
        return y

    def ours(mode: bool | str) -> Callable[[], Tensor]:
        def run() -> Tensor:
            ys = solve(network, y0, (0.0, 1.0), solver="rk4", steps=100, compile=mode).ys
            if not backward:
                return ys[-1]
            gradients = torch.autograd.grad(ys[-1].square().mean(), list(network.parameters()))
            return torch.cat([g.reshape(-1) for g in gradients])

        return run

    def peer() -> Tensor:
        options = {"step_size": 0.01}
        ts = torch.tensor([0.0, 1.0])
        ys = torchdiffeq.odeint(network, y0, ts, method="rk4", options=options)
        if not backward:
            return ys[-1]
        gradients = torch.autograd.grad(ys[-1].square().mean(), list(network.parameters()))
        return torch.cat([g.reshape(-1) for g in gradients])

    contenders = [
        Contender("odenets, compiled", ours("solve")),
        Contender("odenets, eager", ours(False)),
        Contender("torchdiffeq", peer),
    ]
    reference = ours(False)().detach()
    if not backward:
        contenders.append(Contender("400 evaluations, compiled alone", evaluations))
    direction = "forward and backward through the steps" if backward else "forward"
    title = f"MLP 64 -> 128 -> 64, state [128, 64] float32, rk4, 100 steps, {direction}"
    return Case(title, contenders, reference, 1e-3, rounds)


def adaptive_gradient(diffrax: str | None, stack: contextlib.ExitStack, rounds: int) -> Case:
    torch.manual_seed(0)
    network, y0, tolerance = MLP(8, 32, gain=1.0), torch.randn(64, 8), 1e-5
    parameters = list(network.parameters())

    def gradient_of(y: Tensor) -> Tensor:
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(y.square().mean(), parameters)])

    def ours(mode: bool | str, **settings: Any) -> Callable[[], Tensor]:
        return lambda: gradient_of(
            solve(network, y0, (0.0, 4.0), rtol=tolerance, atol=tolerance, compile=mode, **settings).ys[-1]
        )  # fmt: skip

    def peer(odeint: Callable[..., Tensor]) -> Callable[[], Tensor]:
        ts = torch.tensor([0.0, 4.0])
        return lambda: gradient_of(odeint(network, y0, ts, rtol=tolerance, atol=tolerance, method="dopri5")[-1])

    contenders = [
        Contender("odenets, compiled", ours("solve")),
        Contender("odenets, compiled, diffrax's controller", ours("solve", controller=PIDController(p=0.0, i=1.0))),
        Contender("odenets, compiled, recursive", ours("solve", gradient="recursive")),
        Contender("odenets, compiled, adjoint", ours("solve", gradient="adjoint")),
        Contender("odenets, eager", ours(False)),
        Contender("odenets, eager, adjoint", ours(False, gradient="adjoint")),
        Contender("torchdiffeq, adjoint", peer(torchdiffeq.odeint_adjoint)),
        Contender("torchdiffeq, autograd", peer(torchdiffeq.odeint)),
    ]
    if diffrax:
        numbers = torch.cat([x.detach().reshape(-1) for x in (*parameters, y0)])
        contenders.append(stack.enter_context(beside(diffrax, "gradient", numbers, end=4)))
    exact = copy.deepcopy(network).double()
    ys = solve(exact, y0.double(), (0.0, 4.0), solver="dopri8", rtol=1e-11, atol=1e-11).ys
    reference = torch.cat(
        [g.reshape(-1) for g in torch.autograd.grad(ys[-1].square().mean(), list(exact.parameters()))]
    )
    title = "MLP 8 -> 32 -> 8, state [64, 8] float32, dopri5, 1e-5, t in [0, 4], forward and backward"
    return Case(title, contenders, reference.float(), 1e-3, rounds)


def measure(case: Case, grad: bool) -> None:
    """Errors first, then the rounds."""
    with torch.set_grad_enabled(grad):
        for contender in case.contenders:
            started = time.perf_counter()
            result = contender.run().detach()
            first = time.perf_counter() - started
            if "evaluations" in contender.name:
                contender.error = 0.0
            else:
                contender.error = float(((result - case.reference).abs() / (case.floor + case.reference.abs())).max())
            if contender.timed is None:
                contender.compile = max(first - contender.once(), 0.0)
        kept = [contender for contender in case.contenders if contender.error <= case.allowed]
        for i in range(case.rounds):
            gc.collect()
            for contender in kept[i % len(kept) :] + kept[: i % len(kept)]:
                contender.seconds.append(contender.once())


def table(case: Case) -> str:
    ours = case.contenders[0]
    lines = [
        f"### {case.title}", "",
        "| | error | compile, s | median, ms | quartiles, ms | time over ours compiled |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for contender in case.contenders:
        row = f"| {contender.name} | {contender.error:.1e} | {contender.compile:.1f} "
        if not contender.seconds or not ours.seconds:
            lines.append(row + "| wrong result: no speed | | |")
            continue
        q1, median, q3 = (1e3 * q for q in statistics.quantiles(contender.seconds, n=4, method="inclusive"))
        ratio = statistics.median(a / b for a, b in zip(contender.seconds, ours.seconds))
        lines.append(row + f"| {median:.3g} | {q1:.3g} - {q3:.3g} | {ratio:.2f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small problem, two rounds: a smoke run")
    parser.add_argument("--diffrax", help="interpreter of an environment with diffrax")
    parser.add_argument("--only", default="", help="problems whose name begins so: van_der_pol, robertson, network")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rounds = 2 if options.quick else options.rounds
    cases: list[tuple[str, Callable[[contextlib.ExitStack], Case], bool]] = [
        ("van_der_pol", lambda stack: van_der_pol(1, False, options.diffrax, stack, 3 * rounds), False),
        ("van_der_pol", lambda stack: van_der_pol(256, False, options.diffrax, stack, rounds), False),
        ("van_der_pol", lambda stack: van_der_pol(256, True, options.diffrax, stack, rounds), False),
        ("robertson", lambda stack: robertson(1, options.diffrax, stack, rounds), False),
        ("robertson", lambda stack: robertson(1000, options.diffrax, stack, rounds), False),
        ("network", lambda stack: fixed_steps(False, rounds), False),
        ("network", lambda stack: fixed_steps(True, rounds), True),
        ("network", lambda stack: adaptive_gradient(options.diffrax, stack, rounds), True),
    ]
    about = describe_run(PACKAGES)
    parts = [
        f"`{about['command']}`, {about['date']}, commit {about['commit']}, {about['machine']['cpu']}, "
        f"{about['machine']['threads']} thread(s), torch {about['versions']['torch']}."
    ]
    print(parts[0], flush=True)
    results, red = [], False
    for name, build, grad in cases[:1] if options.quick else cases:
        if not name.startswith(options.only):
            continue
        with contextlib.ExitStack() as stack:
            case = build(stack)
            measure(case, grad)
        parts.append(table(case))
        print("\n" + parts[-1], flush=True)
        red = red or any(not contender.seconds for contender in case.contenders)
        rows: list[dict[str, Any]] = [
            {"name": c.name, "error": c.error, "compile": c.compile, "seconds": c.seconds} for c in case.contenders
        ]
        results.append({"title": case.title, "allowed": case.allowed, "rows": rows})
    if options.json:
        options.json.write_text(json.dumps({**about, "cases": results}, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text("\n\n".join(["# Compiled solves, measured", *parts]) + "\n")
    return int(red)


if __name__ == "__main__":
    sys.exit(main())
