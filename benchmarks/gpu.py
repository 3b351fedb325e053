"""Operators, whole models and whole solves on a GPU: correctness first, then microseconds and fractions of a copy's
bandwidth.

    python benchmarks/gpu.py [--json results.json] [--seconds 500] [--skip-models] [--skip-solvers] [--compile-models]
                             [--graph-models] [--tune]
    python benchmarks/gpu.py --dry-run      # on the CPU, through Triton's interpreter, tiny: no speed is measured

From a checkout; needs torch, triton and numpy. The gate: every kernel equals the float64 reference, outputs and
gradients, in float32 and bfloat16; if one does not, nothing is measured and the exit code is 1. Then, in the same run,
the bandwidth of a copy, training steps of whole models, solves (beside torchdiffeq where installed), and every operator
at every size: 20th, 50th and 80th
percentile of the time from a cold cache, the bytes it cannot avoid moving, and what it reaches of the copy's bandwidth;
beside it plain torch, torch.compile of it (at two sizes: compiling takes seconds each), and Liger-Kernel's mHC where
installed. When the time given is over, what is left is skipped, and said so.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
WIDTHS, TOKENS = (2560, 7168, 4096, 1280), (32768, 8192)
COMPILED = {(7168, 32768), (2560, 32768)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the results; benchmarks/results/gpu-<name>.json")
    parser.add_argument("--seconds", type=float, default=500.0, help="stop measuring after so long")
    parser.add_argument("--skip-models", action="store_true", help="no training steps of models")
    parser.add_argument("--skip-solvers", action="store_true", help="no solves of differential equations")
    parser.add_argument("--compile-models", action="store_true", help="whole models under torch.compile as well")
    parser.add_argument("--graph-models", action="store_true", help="whole models with CUDA graphs as well")
    parser.add_argument(
        "--tune", action="store_true", help="tune tile sizes first; minutes of compiling, less where they are cached"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="run every path once on the CPU, tiny, and measure nothing"
    )
    options = parser.parse_args()
    if options.tune:
        os.environ["ODENETS_TUNE"] = "1"
    if options.dry_run:  # before anything imports Triton
        os.environ["TRITON_INTERPRET"] = "1"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    sys.path.insert(0, str(ROOT))
    import torch

    if not options.dry_run and not torch.cuda.is_available():
        print("no GPU here: nothing to measure; --dry-run checks the script itself")
        return 2
    begun = time.monotonic()
    failures = gate(options.dry_run)
    if failures:
        print("the gate is red, no speed is measured:", *failures, sep="\n  ")
        return 1
    print(f"gate: every kernel equals its float64 reference ({time.monotonic() - begun:.0f} s)", flush=True)
    result = run(options, begun)
    if options.dry_run:
        print("dry run on the CPU: every path ran once, no speed was measured")
    path = options.json or (None if options.dry_run else _default_path(torch.cuda.get_device_name()))
    if path:
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {path}")
    return 0


def gate(tiny: bool) -> list[str]:
    """Kernels that differ from their reference, with the reason."""
    import torch

    from tests.kernels.comparison import compare
    from tests.kernels.operators import OPERATORS

    failures = []
    for name, operator in OPERATORS.items():
        half = (operator.sizes[0], (3,), torch.bfloat16)
        single = [((3,), size) for size in operator.sizes] + [((150,), operator.sizes[0])]
        checks = [half] if tiny else [half, *((size, tokens, torch.float32) for tokens, size in single)]
        for size, tokens, dtype in checks:
            try:
                compare(name, tokens, size, dtype)
            except Exception as error:  # a kernel that does not even launch is a red gate as well
                failures.append(
                    f"{name} {tokens} x {size} {dtype}: {type(error).__name__}: {str(error).splitlines()[0]}"
                )
    return failures


def run(options: argparse.Namespace, begun: float) -> dict[str, Any]:
    """Everything that is measured, with the machine it was measured on."""
    import torch

    from benchmarks import gpu_models, gpu_operators, gpu_solvers, gpu_timing
    from benchmarks.measure import describe_run

    torch._functorch.config.donated_buffer = False  # a compiled backward pass is run many times on one graph
    dry = options.dry_run
    copy = gpu_timing.copy_bandwidth(2**12 if dry else 2**31)
    print("copy: " + (f"{copy:.0f} GB/s" if copy else "not measured"), flush=True)
    rows: list[dict[str, Any]] = []
    skipped: list[str] = []
    widths, tokens = ((16,), (4,)) if dry else (WIDTHS, TOKENS)
    models: list[dict[str, Any]] = []
    if not options.skip_models:  # first: they are few, and say most
        size = gpu_models.Size(1, 16, 2, 1, 4) if dry else gpu_models.Size()
        modes: list[bool | str] = [False]
        modes += ([True] * options.compile_models + ["cuda_graph"] * options.graph_models) * (not dry)
        for compiled in modes:
            for block in gpu_models.BLOCKS:
                for backend in ("triton",) if block == "residual" or dry else ("triton", "reference"):
                    models.append(gpu_models.measure(size, block, backend, compiled))
                    print(_model_line(models[-1], models), flush=True)
    solves = [] if options.skip_solvers else gpu_solvers.measure(dry)
    print(*map(gpu_solvers.line, solves), sep="\n", flush=True)
    for T in tokens:
        for C in widths:
            for name, case in gpu_operators.CASES.items():
                if case.widths and widths[0] != C:
                    continue
                if time.monotonic() - begun > options.seconds:
                    skipped.append(f"{name} {T} x {C}: out of time")
                    continue
                compiled = name == "delta" if dry else (C, T) in COMPILED or (T, bool(case.widths)) == (TOKENS[0], True)
                try:
                    for row in gpu_operators.measure(name, 0 if case.widths else C, T, compiled):
                        if copy and "gb_per_s" in row:
                            row["of_copy"] = row["gb_per_s"] / copy
                        rows.append(row)
                        print(_line(row), flush=True)
                except RuntimeError as error:  # out of memory, or a peer that fails: the others are still measured
                    skipped.append(f"{name} {T} x {C}: {str(error).splitlines()[0]}")
                    print(f"{skipped[-1]}", flush=True)
    if skipped:
        print("not measured:", *skipped, sep="\n  ")
    packages = [p for p in ("torch", "triton", "numpy", "liger-kernel") if _installed(p)]
    gpu = None if dry else torch.cuda.get_device_name()
    return describe_run(packages) | {
        "gpu": gpu, "cuda": torch.version.cuda, "copy_gb_per_s": copy, "operators": rows, "models": models,
        "solvers": solves, "tuned": options.tune, "skipped": skipped, "seconds": round(time.monotonic() - begun),
    }  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    name = f"{row['operator']:<18}{row['pass']:<9}{row['tokens']:>6} x {row['C']:<5}{row['implementation']:<9}"
    if "p50_us" not in row:
        return f"{name} not measured" + ("" if row["agrees"] else ", DIFFERS from the reference")
    times = f"{row['p20_us']:9.1f}{row['p50_us']:9.1f}{row['p80_us']:9.1f} us"
    speed = f"{row['gb_per_s']:7.0f} GB/s {100 * row['of_copy']:5.1f}% of the copy"
    return f"{name}{times}{speed}" + ("" if row["agrees"] else "  DIFFERS from the reference")


def _model_line(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    name = f"{row['layers']} x {row['width']} {row['block']:<13}{row['backend']:<10}"
    name += {False: "eager    ", True: "compiled "}.get(row["compiled"], "as graph ")
    plain = next(r for r in rows if r["block"] == "residual" and r["compiled"] == row["compiled"])
    if "step_ms" not in row or "step_ms" not in plain:
        return f"{name} {row.get('note', 'not measured')}"
    ratio = row["step_ms"] / plain["step_ms"]
    return f"{name}{row['step_ms']:8.1f} ms a step ({ratio:.3f} x residual), peak {row['peak_gib']:.1f} GiB"


def _default_path(gpu: str) -> Path:
    return ROOT / "benchmarks" / "results" / f"gpu-{gpu.lower().replace(' ', '-')}-{time.strftime('%Y-%m-%d')}.json"


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
