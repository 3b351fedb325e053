"""Stiff solvers: error and work on three standard problems beside scipy, and a batch of stiff systems beside diffrax.

    python benchmarks/stiff.py docs/results/stiff [PYTHON_WITH_DIFFRAX]

Robertson to 1e11, HIRES and van der Pol (eps = 1e-6) at rtol 1e-6, against reference digits. Work is counted in calls of
the field; a Jacobian counts as n more: scipy forms it from n calls that its own `nfev` leaves out, odenets from n
tangents. Rodas5P also needs df/dt, one more. KenCarp methods are for split fields; here all of the field is their
implicit part. Factorisations count once per matrix I - h A (x) J, of which Radau has a real and a complex block.

With an interpreter that has diffrax: 1000 Robertson systems with the slow rate varied over two decades, a step size
each, to t = 1e4 at rtol 1e-6 and atol 1e-10, on one thread. Errors are the largest of all systems and components,
relative; times are medians of three solves and count only where the result is right.

Counts do not depend on the machine's load, times do. Writes PATH.md and benchmarks/results/stiff.json.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
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
LIMIT = 1e-4  # of the relative errors
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
    if not row["error"] < LIMIT:
        raise SystemExit(f"{method} is wrong: relative error {row['error']:.1e}; no table.")
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


def batch(python: str) -> dict[str, Any]:
    """Times of the batch, each gated on agreement with Radau IIA 5 at much smaller tolerances."""
    count, end, rounds = int(BATCH["systems"]), BATCH["end"], int(BATCH["rounds"])
    rates = torch.logspace(-1, 1, count, dtype=torch.float64)
    y0 = torch.tensor([1.0, 0, 0], dtype=torch.float64).expand(count, 3).contiguous()

    def run(method: str, rtol: float = BATCH["rtol"], atol: float = BATCH["atol"]):
        with torch.no_grad():
            return solve(robertson, y0, (0.0, end), args=(rates,), per_sample=True, solver=method, rtol=rtol, atol=atol)

    exact = run("radauIIA5", 1e-9, 1e-14).ys[-1]
    rows = []
    for method, rtol in (
        ("kvaerno5", 1e-6),
        ("kvaerno5", 5e-7),
        ("rodas5p", 1e-6),
        ("rodas5p", 2e-7),
        ("radauIIA5", 1e-6),
    ):
        solution, times = run(method, rtol), []
        for _ in range(rounds):
            wall, cpu = time.perf_counter(), time.process_time()
            run(method, rtol)
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
        stats = solution.stats
        rows.append(_timed(f"{method}, rtol {rtol:g}", solution.ys[-1], exact, times, stats.accepted, stats.rejected))
    command = [python, str(Path(__file__).with_name("stiff_batch_diffrax.py")), *(str(v) for v in BATCH.values())]
    environment = {**os.environ, "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    found = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout)
    ys, accepted, rejected = (torch.tensor(found[key], dtype=torch.float64) for key in ("ys", "accepted", "rejected"))
    row = _timed(f"diffrax Kvaerno5, rtol {BATCH['rtol']:g}", ys, exact, found["times"], accepted, rejected)
    rows.append(row | {"compile_and_first": found["compile_and_first"][0]})
    return {"settings": BATCH, "rows": rows, "versions": found["versions"]}


def _timed(
    name: str, ys: torch.Tensor, exact: torch.Tensor, times: list, accepted: torch.Tensor, rejected: torch.Tensor
) -> dict[str, Any]:
    error = float((ys / exact - 1).abs().max())
    if not error < LIMIT:
        raise SystemExit(f"{name} is wrong: relative error {error:.1e}; no times.")
    wall, cpu = (statistics.median(t[i] for t in times) for i in (0, 1))
    steps = {"accepted": int(accepted.sum()), "rejected": int(rejected.sum())}
    return {
        "method": name,
        "error": error,
        "wall": wall,
        "cpu": cpu,
        "trials": int((accepted + rejected).max()),
        **steps,
    }


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return [*("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines), ""]


def work_table(rows: list[dict[str, Any]]) -> list[str]:
    keys = ("accepted", "rejected", "nfe", "jacobians", "factorisations", "solves", "work")
    scipy_work = {row["method"]: row["work"] for row in rows}
    cells = []
    for row in rows:
        ratios = [f"{row['work'] / scipy_work[f'scipy {method}']:.2f}" for method in ("Radau", "BDF")]
        cells.append([row["method"], f"{row['error']:.1e}", *(row.get(key, "") for key in keys), *ratios])
    head = "method|rel. error|accepted|rejected|nfe|Jacobians|LU|solves|work|work / scipy Radau|work / scipy BDF"
    return table(head.split("|"), cells)


def like_for_like(problems: dict[str, list[dict[str, Any]]]) -> str:
    parts = []
    for mine, theirs in (("radauIIA5", "scipy Radau"), ("bdf", "scipy BDF")):
        ratios = []
        for rows in problems.values():
            work = {row["method"]: row["work"] for row in rows}
            ratios.append(work[mine] / work[theirs])
        parts.append(f"{mine} takes {min(ratios):.2f} to {max(ratios):.2f} of {theirs}'s work")
    return f"Like for like: {', '.join(parts)}."


def batch_table(found: dict[str, Any]) -> list[str]:
    theirs = found["rows"][-1]
    cells = [
        [
            row["method"], f"{row['error']:.1e}", row["accepted"], row["rejected"], row["trials"],
            f"{row['wall']:.2f}", f"{row['cpu']:.2f}", f"{row['cpu'] / theirs['cpu']:.2f}",
        ]
        for row in found["rows"]
    ]  # fmt: skip
    head = "method|rel. error|accepted, all|rejected, all|most trials of one|wall s|CPU s|CPU / diffrax"
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    first = f"{theirs['compile_and_first']:.1f} s went into compiling and the first solve, which the table leaves out"
    return [
        "## 1000 Robertson systems, a step size each",
        "",
        *table(head.split("|"), cells),
        f"{versions}: {first}.",
        "",
    ]


def report(results: dict[str, Any]) -> str:
    about = results["about"]
    machine = f"{about['machine']['cpu']}, {about['machine']['cores']} cores, {about['machine']['threads']} thread"
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = ["# Stiff solvers", "", (__doc__ or "").split("\n\n", 2)[2].strip(), ""]
    lines += [f"`{about['command']}`, {about['date']}, commit {about['commit']}, {machine}, {versions}.", ""]
    lines += [like_for_like(results["problems"]), ""]
    for name, rows in results["problems"].items():
        lines += [f"## {name}", "", *work_table(rows)]
    return "\n".join(lines + (batch_table(results["batch"]) if "batch" in results else [])).rstrip() + "\n"


def main(path: Path, python: str | None) -> None:
    results: dict[str, Any] = {"about": describe_run(["torch", "scipy", "numpy"])}
    command = f"python benchmarks/stiff.py {path}"
    results["about"]["command"] = command if python is None else f"{command} PYTHON_WITH_DIFFRAX"
    results["problems"] = {
        name: [*(ours(p, m) for m in METHODS), *(scipys(p, m) for m in ("Radau", "BDF"))] for name, p in STIFF.items()
    }
    if python is not None:
        results["batch"] = batch(python)
    path.with_suffix(".md").write_text(report(results))
    (Path(__file__).parent / "results" / "stiff.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(f"usage: {sys.argv[0]} PATH [PYTHON_WITH_DIFFRAX]")
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) == 3 else None)
