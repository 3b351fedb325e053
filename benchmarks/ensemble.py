"""Trajectories per second: a Lorenz ensemble in which every trajectory has its own rho.

python benchmarks/ensemble.py [--diffrax PYTHON] [--numba PYTHON] [--quick]

x' = 10 (y - x), y' = x (rho - z) - y, z' = x y - 8/3 z from (1, 1, 1) to t = 10, rho evenly in [0, 28], relative and
absolute tolerance 1e-6, float64, the state at the end. Everything runs on one thread. Contenders that are slower get
fewer trajectories over the same interval of rho. Before a time counts, the end states at some of the rho are compared
with scipy's DOP853 at 1e-13; a contender whose error is beyond the limit is not timed. Times are medians of the
rounds; what is compiled, is compiled before. Writes results/ensemble.json and results/ensemble.md.

diffrax and numba run in environments of their own, given by the path of their interpreter; without it they are left out.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measure import describe_run
from scipy.integrate import solve_ivp

from odenets import solve
from odenets.solvers import TABLEAUS

F64 = torch.float64
COUNT, END, TOLERANCE, ROUNDS, CHUNK = 100_000, 10.0, 1e-6, 5, 1000
LIMIT = (
    1e-2  # of the end state's error against the attractor's size; the largest Lyapunov exponent makes e^9 of an error
)
SIZE = 50.0
PROBES = 11
RESULTS = Path(__file__).parent / "results"


def lorenz(t, y, rho):
    x, v, z = y.unbind(-1)
    return torch.stack([10 * (v - x), x * (rho - z) - v, x * v - 8 / 3 * z], -1)


def scipys(rho: float, method: str, tolerance: float) -> Any:
    def field(t, y):
        return [10 * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]]

    return solve_ivp(field, (0.0, END), [1.0, 1.0, 1.0], method, rtol=tolerance, atol=tolerance)


@functools.cache
def exact(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """PROBES of `count` trajectories and their end states [PROBES, 3]."""
    where = torch.linspace(0, count - 1, PROBES, dtype=F64).round().long()
    rhos = torch.linspace(0, 28, count, dtype=F64)[where].tolist()
    return where, torch.stack([torch.tensor(scipys(rho, "DOP853", 1e-13).y[:, -1], dtype=F64) for rho in rhos])


def error_of(ys: torch.Tensor) -> float:
    """Of end states [count, 3] over the interval of rho."""
    where, truth = exact(len(ys))
    return float((ys[where].to(F64) - truth).abs().max()) / SIZE


class Row(dict):
    """name, count, error; wall and cpu seconds, compile seconds, steps: absent where the error is beyond the limit."""

    @classmethod
    def of(cls, name: str, count: int, error: float, found: dict[str, Any]) -> Row:
        if not error < LIMIT:
            print(f"{name}: error {error:.1e} is beyond {LIMIT:g}: no times")
            return cls(name=name, count=count, error=error)
        row = cls(
            name=name, count=count, error=error, **{key: found.get(key) for key in ("wall", "cpu", "compile", "steps")}
        )
        print(f"{name:<44}{count / row['wall']:12.0f} trajectories/s", flush=True)
        return row


def ours(name: str, count: int, rounds: int, device: str = "cpu", **settings: Any) -> Row:
    dtype = settings.pop("dtype", F64)
    y0 = torch.ones(count, 3, dtype=dtype, device=device)
    rho = torch.linspace(0, 28, count, dtype=F64, device=device).to(dtype)
    ts = torch.linspace(0, END, settings.pop("outputs", 2), dtype=F64, device=device)
    tolerance = settings.pop("tolerance", TOLERANCE)

    def run(n: int = count) -> Any:
        solution = solve(lorenz, y0[:n], ts, args=(rho[:n],), rtol=tolerance, atol=tolerance, **settings)
        if device == "cuda":
            torch.cuda.synchronize()
        return solution

    with torch.no_grad():
        wall = time.perf_counter()
        run(min(count, 2))
        compiling = time.perf_counter() - wall
        solution, times = run(), []
        for _ in range(rounds):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
    steps = int((solution.stats.accepted + solution.stats.rejected).sum())
    found = {"compile": compiling, "steps": steps} | {
        key: statistics.median(t[i] for t in times) for i, key in enumerate(("wall", "cpu"))
    }
    return Row.of(name, count, error_of(solution.ys[-1].cpu()), found)


def scipy_loop(count: int) -> Row:
    rhos = torch.linspace(0, 28, count, dtype=F64).tolist()
    wall, cpu = time.perf_counter(), time.process_time()
    solutions = [scipys(rho, "RK45", TOLERANCE) for rho in rhos]
    found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    ys = torch.stack([torch.tensor(s.y[:, -1], dtype=F64) for s in solutions])
    return Row.of("scipy solve_ivp RK45, a loop", count, error_of(ys), found)


def elsewhere(name: str, python: str, script: str, arguments: list[float], text: str = "") -> tuple:
    """A contender in an environment of its own: (row, versions)."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}
    command = [python, str(Path(__file__).with_name(script)), *(str(x) for x in arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, input=text)
    found = json.loads(done.stdout)
    ys = torch.tensor(found["ys"], dtype=F64)
    return Row.of(name, len(ys), error_of(ys), found), found["versions"]


def report(results: dict[str, Any]) -> str:
    about, rows = results["about"], results["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    machine = f"{about['machine']['cpu']}, {about['machine']['cores']} cores, {about['machine']['threads']} thread"
    lines = ["# A Lorenz ensemble", "", (__doc__ or "").split("\n\n")[2], ""]
    lines += [f"`{about['command']}`, {about['date']}, commit {about['commit']}, {machine}, {versions}.", ""]
    lines += ["| | trajectories | error | trajectories/s | per trajectory | compiling | ours is faster |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|"]
    first = rows[0]["wall"] / rows[0]["count"]
    for row in rows:
        cells = [row["name"], f"{row['count']:,}", f"{row['error']:.1e}"]
        if "wall" in row:
            each = row["wall"] / row["count"]
            compiling = "" if row["compile"] is None else f"{row['compile']:.1f} s"
            cells += [f"{1 / each:,.0f}", f"{each * 1e6:.1f} us", compiling, f"{each / first:.1f}x"]
        else:
            cells += ["", "", "", "wrong"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--diffrax", help="interpreter of an environment with diffrax")
    parser.add_argument("--numba", help="interpreter of an environment with numba")
    parser.add_argument("--quick", action="store_true", help="few trajectories: does it run?")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    count, rounds = (2000, 1) if options.quick else (COUNT, ROUNDS)
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # so that compiling is timed, not found
        rows = [ours("ensemble, tsit5", count, rounds, solver="tsit5", ensemble=True)]
        rows.append(ours("ensemble, dopri5", count, rounds, solver="dopri5", ensemble=True))
        rows.append(ours("ensemble, rodas5p", count, rounds, solver="rodas5p", ensemble=True))
        rows.append(
            ours("ensemble, tsit5, 101 outputs", count // 10, rounds, solver="tsit5", ensemble=True, outputs=101)
        )
        single = {"dtype": torch.float32, "tolerance": 1e-5}
        rows.append(ours("ensemble, tsit5, float32 at 1e-5", count, rounds, solver="tsit5", ensemble=True, **single))
    if torch.cuda.is_available():
        rows.append(ours("ensemble, tsit5, GPU", count, rounds, "cuda", solver="tsit5", ensemble=True))
        rows.append(ours("per-sample loop, tsit5, GPU", count, 1, "cuda", solver="tsit5", per_sample=True))
    rows.append(ours("per-sample loop, tsit5", count // 10, 1, solver="tsit5", per_sample=True))
    rows.append(scipy_loop(11 if options.quick else 51))
    if options.diffrax:
        for name, chunk, many in ((f"diffrax Tsit5, {CHUNK} at a time", CHUNK, 3), ("diffrax Tsit5, one vmap", 0, 1)):
            arguments = [count, chunk, 1 if options.quick else many, TOLERANCE, END]
            row, found = elsewhere(name, options.diffrax, "ensemble_diffrax.py", arguments)
            rows.append(row)
            versions |= found
    else:
        print("diffrax left out: give the interpreter of its environment by --diffrax")
    if options.numba:
        tableau = json.dumps({"a": TABLEAUS["tsit5"].a, "e": TABLEAUS["tsit5"].b_error})
        arguments = [count, min(rounds, 3), TOLERANCE, END]
        row, found = elsewhere("numba loop, tsit5 by hand", options.numba, "ensemble_numba.py", arguments, tableau)
        rows.append(row)
        versions |= found
    else:
        print("numba left out: give the interpreter of its environment by --numba")
    about = describe_run(["torch", "numpy", "scipy"])
    about["versions"] |= versions
    about["command"] = "python benchmarks/ensemble.py" + "".join(
        f" --{name} PYTHON" for name in ("diffrax", "numba") if getattr(options, name)
    )
    options.out.mkdir(parents=True, exist_ok=True)
    results = {
        "about": about,
        "settings": {"count": count, "end": END, "tolerance": TOLERANCE, "limit": LIMIT},
        "rows": rows,
    }
    (options.out / "ensemble.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "ensemble.md").write_text(report(results))
    print(f"written: {options.out / 'ensemble.md'}")


if __name__ == "__main__":
    main()
