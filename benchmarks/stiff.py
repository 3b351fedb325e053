"""Stiff solvers: error and work on three standard problems beside scipy, and a batch of stiff systems beside diffrax.

    python benchmarks/stiff.py docs/results/stiff [PYTHON_WITH_DIFFRAX]

Robertson to 1e11, HIRES and van der Pol (eps = 1e-6) at rtol 1e-6, against reference digits. Work is counted in calls of
the field; a Jacobian counts as n more: scipy forms it from n calls that its own `nfev` leaves out, odenets from n
tangents. Rodas5P also needs df/dt, one more. Then 1000 Robertson systems with the slow rate varied over two decades, a
step size each, to t = 1e4; times count only where the result is right. Writes PATH.md and benchmarks/results/stiff.json.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from measure import describe_run
from scipy.integrate import solve_ivp

from odenets import solve
from odenets.solvers import SplitField

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.solvers.stiff import STIFF, Stiff, relative_error, robertson

RTOL = 1e-6
METHODS = ("radauIIA5", "kvaerno3", "kvaerno4", "kvaerno5", "rodas5p", "bdf", "kencarp3", "kencarp4", "kencarp5")
BATCH = {"systems": 1000, "end": 1e4, "rtol": 1e-6, "atol": 1e-10, "rounds": 3}
ROSENBROCK_STAGES = 8


def ours(problem: Stiff, method: str) -> dict[str, Any]:
    """Error and work of one solve."""
    n, field = problem.y0.numel(), problem.field
    if method.startswith("kencarp"):  # all of it implicit: these problems have no part that is not stiff
        field = SplitField(lambda t, y: torch.zeros_like(y), problem.field)
    began = time.process_time()
    with torch.no_grad():
        solution = solve(field, problem.y0, (0.0, problem.end), solver=method, rtol=RTOL, atol=problem.atol)
    seconds, stats = time.process_time() - began, solution.stats
    row = {
        "method": method, "error": relative_error(problem, solution.ys[-1]), "accepted": int(stats.accepted),
        "rejected": int(stats.rejected), "nfe": stats.nfe, "jacobians": stats.jacobians,
        "factorisations": stats.factorisations, "solves": stats.iterations, "cpu_seconds": seconds,
    }  # fmt: skip
    tangents = n
    if method == "rodas5p":  # one Jacobian and df/dt per state, one factorisation per trial
        trials = row["accepted"] + row["rejected"]
        row |= {"jacobians": row["accepted"], "factorisations": trials, "solves": ROSENBROCK_STAGES * trials}
        tangents = n + 1
    return row | {"work": row["nfe"] + tangents * row["jacobians"]}


def scipys(problem: Stiff, method: str) -> dict[str, Any]:
    field = lambda t, y: problem.field(torch.tensor(t, dtype=torch.float64), torch.from_numpy(y)).numpy()  # noqa: E731
    calls = 0

    def counted(t, y):
        nonlocal calls
        calls += 1
        return field(t, y)

    solution = solve_ivp(counted, (0, problem.end), problem.y0.numpy(), method, rtol=RTOL, atol=problem.atol)
    return {
        "method": f"scipy {method}", "error": relative_error(problem, torch.from_numpy(solution.y[:, -1])),
        "accepted": len(solution.t) - 1, "nfe": solution.nfev, "jacobians": solution.njev,
        "factorisations": solution.nlu, "work": calls,
    }  # fmt: skip


def batch(python: str | None) -> dict[str, Any]:
    """Times of the batch, each gated on agreement with Radau IIA 5 at much smaller tolerances."""
    count, end, rounds = int(BATCH["systems"]), BATCH["end"], int(BATCH["rounds"])
    rates = torch.logspace(-1, 1, count, dtype=torch.float64)
    y0 = torch.tensor([1.0, 0, 0], dtype=torch.float64).expand(count, 3).contiguous()

    def run(method: str, rtol: float = BATCH["rtol"], atol: float = BATCH["atol"]):
        with torch.no_grad():
            return solve(robertson, y0, (0.0, end), args=(rates,), per_sample=True, solver=method, rtol=rtol, atol=atol)

    exact = run("radauIIA5", 1e-9, 1e-14).ys[-1]
    rows = []
    for method in ("kvaerno5", "rodas5p", "radauIIA5"):
        solution, times = run(method), []
        for _ in range(rounds):
            wall, cpu = time.perf_counter(), time.process_time()
            run(method)
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
        stats = solution.stats
        rows.append(_timed(method, solution.ys[-1], exact, times, stats.accepted.max(), stats.rejected.max()))
    about = {}
    if python is not None:
        command = [python, str(Path(__file__).with_name("stiff_batch_diffrax.py")), *(str(v) for v in BATCH.values())]
        environment = {**os.environ, "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
        found = json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
        ys = torch.tensor(found["ys"], dtype=torch.float64)
        row = _timed("diffrax Kvaerno5", ys, exact, found["times"], found["accepted"], found["rejected"])
        rows.append(row | {"compile_and_first": found["compile_and_first"]})
        about = found["versions"]
    return {"settings": BATCH, "rows": rows, "versions": about}


def _timed(
    name: str, ys: torch.Tensor, exact: torch.Tensor, times: list, accepted: Any, rejected: Any
) -> dict[str, Any]:
    error = float((ys / exact - 1).abs().max())
    if error > 1e-3:
        raise SystemExit(f"{name} is wrong: relative error {error:.1e}; no times.")
    wall, cpu = (statistics.median(t[i] for t in times) for i in (0, 1))
    return {
        "method": name,
        "error": error,
        "wall": wall,
        "cpu": cpu,
        "accepted": int(accepted),
        "rejected": int(rejected),
    }


def report(results: dict[str, Any]) -> str:
    about = results["about"]
    machine = f"{about['machine']['cpu']}, {about['machine']['cores']} cores, {about['machine']['threads']} thread"
    lines = ["# Stiff solvers", "", (__doc__ or "").split("\n\n", 2)[2].strip(), ""]
    lines += [f"`{about['command']}`, {about['date']}, commit {about['commit']}, {machine}, {about['versions']}.", ""]
    for name, rows in results["problems"].items():
        least = {row["method"]: row["work"] for row in rows if row["method"].startswith("scipy")}
        lines += [
            f"## {name}",
            "",
            "| method | rel. error | accepted | rejected | nfe | Jacobians | LU | solves | work "
            "| / scipy Radau | / scipy BDF |",
        ]
        lines += ["|---" + "|---:" * 10 + "|"]
        for row in rows:
            ratios = [f"{row['work'] / least[f'scipy {m}']:.2f}" for m in ("Radau", "BDF")]
            cells = [
                row.get(key, "")
                for key in ("accepted", "rejected", "nfe", "jacobians", "factorisations", "solves", "work")
            ]
            lines.append(
                f"| {row['method']} | {row['error']:.1e} | " + " | ".join(str(c) for c in [*cells, *ratios]) + " |"
            )
        lines.append("")
    lines += [
        "## 1000 Robertson systems, a step size each",
        "",
        "| method | rel. error | most accepted | most rejected | wall s | CPU s |",
    ]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for row in results["batch"]["rows"]:
        lines.append(
            f"| {row['method']} | {row['error']:.1e} | {row['accepted']} | {row['rejected']} "
            f"| {row['wall']:.2f} | {row['cpu']:.2f} |"
        )
    for row in results["batch"]["rows"]:
        if "compile_and_first" in row:
            lines += [
                "",
                f"{row['method']}: {row['compile_and_first'][0]:.1f} s for compiling and the first solve, not in the table.",
            ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(f"usage: {sys.argv[0]} PATH [PYTHON_WITH_DIFFRAX]")
    results = {
        "about": describe_run(["torch", "scipy", "numpy"]),
        "problems": {
            name: [*(ours(p, m) for m in METHODS), *(scipys(p, m) for m in ("Radau", "BDF"))] for name, p in STIFF.items()
        },
        "batch": batch(sys.argv[2] if len(sys.argv) > 2 else None),
    }  # fmt: skip
    results["about"]["command"] = f"python benchmarks/stiff.py {sys.argv[1]} [PYTHON_WITH_DIFFRAX]"
    Path(sys.argv[1]).with_suffix(".md").write_text(report(results))
    (Path(__file__).parent / "results" / "stiff.json").write_text(json.dumps(results, indent=1) + "\n")
