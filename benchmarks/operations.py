"""odenets.solvers against torchdiffeq and torchode: ATen operations per step, and milliseconds, in one run.

    python benchmarks/operations.py [--quick] [--compiled] [--threads N] [--json PATH]

What fails its correctness gate gets no speed, and the exit code is 1. torchode runs eagerly; `--compiled` adds
torch.compile of its `solve` (compiling its module compiles nothing). TorchScript, which its documentation also offers,
is left out: torch 2.13 fails with an internal assertion while scripting torchode 1.0.1. torchdiffeq 0.2.5 has no tsit5.
Other systems, batches and libraries: `solvers.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from compare import Case, Row, measure
from contenders import ADJOINT, COMPILED, FORWARD, Contender
from measure import OpCounter, describe_run
from problems import Problem, problems
from table import preamble, table

PACKAGES = ("torch", "torchdiffeq", "torchode", "scipy", "numpy")


def cases(quick: bool, compiled: bool) -> list[Case]:
    """Every table of the report."""
    decay, van_der_pol, mlp = problems(quick)
    forward = (*FORWARD, COMPILED) if compiled else FORWARD
    tsit5 = () if quick else (Case(van_der_pol, "tsit5", "forward", having("tsit5", FORWARD)),)
    return [
        Case(decay, "dopri5", "forward", forward),
        Case(van_der_pol, "dopri5", "forward", forward),
        *tsit5,
        Case(mlp, "dopri5", "forward", forward),
        Case(mlp, "dopri5", "autograd", FORWARD),
        Case(mlp, "dopri5", "adjoint", ADJOINT),
    ]


def having(method: str, contenders: Sequence[Contender]) -> tuple[Contender, ...]:
    return tuple(contender for contender in contenders if method in contender.methods)


def ops_of_field(problem: Problem) -> int:
    with torch.no_grad(), OpCounter() as counter:
        problem.field(torch.zeros((), dtype=problem.y0.dtype), problem.y0)
    return counter.total


def as_data(case: Case, field_ops: int, rows: list[Row]) -> dict[str, Any]:
    problem = case.problem
    return {
        "problem": problem.name,
        "title": problem.title,
        "method": case.method,
        "mode": case.mode,
        "tolerance": problem.tolerance,
        "allowed_error": problem.allowed,
        "allowed_gradient_error": problem.allowed_gradient if case.mode != "forward" else None,
        "field_ops_per_call": field_ops,
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small problems, few rounds: a smoke run")
    parser.add_argument("--compiled", action="store_true", help="also torch.compile torchode's solve (minutes)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1: these states are small)")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    about = describe_run(PACKAGES)
    print(preamble(about), flush=True)
    tables = []
    for case in cases(options.quick, options.compiled):
        field_ops, rows = ops_of_field(case.problem), measure(case)
        print(table(case, field_ops, rows), flush=True)
        tables.append(as_data(case, field_ops, rows))
    if options.json:
        options.json.write_text(json.dumps({**about, "tables": tables}, indent=1) + "\n")
    red = [f"{t['problem']}/{t['mode']}: {row['name']}" for t in tables for row in t["rows"] if not row["green"]]
    print("\nEvery result agrees with its reference." if not red else f"\nRED: {', '.join(red)}")
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main())
