"""Compiles every kernel for a GPU without having one.

    python tests/kernels/compile_for_gpu.py [--all-tiles] [FOLDER ...]

The launchers run on tensors without memory; what they would launch, with their own tile sizes, is compiled for compute
capability 9.0: untuned, or with --all-tiles every candidate; in the folders given, or in all. Prints registers, spilled
bytes (STACK) and shared memory of every kernel. Without TRITON_INTERPRET.
"""

import argparse
import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from odenets.kernels import tuning

FOLDERS = (
    "coefficients", "delta", "delta_compress", "depth_mix", "expand_project", "generator", "mhc", "runge_kutta",
    "sinkhorn",
)  # fmt: skip
TARGET = GPUTarget("cuda", 90, 32)
TOKENS = 8192
TYPES = {
    torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16",
    torch.int32: "i32", torch.int64: "i64", float: "fp32", int: "i32",
}  # fmt: skip


def of(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(TOKENS, *shape, dtype=dtype, device="meta")


def launches() -> Iterator[tuple[str, Callable[[], Any]]]:
    """(label, call of a launcher) for sizes as models have them."""
    modules = (importlib.import_module(f"odenets.kernels.{f}.triton") for f in FOLDERS)
    coefficients, delta, compress, depth, joined, generator, mhc, rk, sinkhorn = modules
    for d, dv, dtype in ((2560, 4, torch.bfloat16), (7168, 1, torch.float32), (64, 1, torch.bfloat16)):
        x, k, v, beta, e = of(d, dv, dtype=dtype), of(d, dtype=dtype), of(dv, dtype=dtype), of(), of(dv)
        yield f"delta {d} x {dv}", lambda x=x, k=k, v=v, beta=beta: delta.forward(x, k, v, beta, 1e-5)
        yield f"delta {d} x {dv}", lambda x=x, k=k, e=e, beta=beta: delta.undo(x, k, e, beta, None)
        yield f"delta {d} x {dv}", lambda x=x, k=k, v=v, beta=beta, e=e: delta.backward(x, e, x, k, v, beta, 1e-5)
        w, gain = torch.empty(d, dv, device="meta"), torch.empty(d, device="meta")
        parts = (x, k, v, beta, w, gain)
        yield f"delta {d} x {dv}", lambda parts=parts: compress.forward(*parts, 1e-5, 1e-6)
        yield (
            f"delta {d} x {dv}",
            lambda k=k, parts=parts, e=e: compress.backward(parts[0], k, *parts, e, of(), of(), 1e-5),
        )
    for n, C, dtype in ((4, 2560, torch.bfloat16), (4, 7168, torch.float32), (8, 1280, torch.bfloat16)):
        x, row, u, square = of(n, C, dtype=dtype), of(n), of(C, dtype=dtype), of(n, n)
        N = n * n + 2 * n
        phi = torch.empty(n * C, N, device="meta")
        flat = x.flatten(1)
        yield f"streams {n} x {C}", lambda x=x, row=row: mhc.aggregate(x, row)
        yield f"streams {n} x {C}", lambda u=u, x=x, row=row: mhc.aggregate_backward(u, x, x, row)
        yield f"streams {n} x {C}", lambda x=x, s=square, row=row, u=u: mhc.expand(x, s, row, u)
        yield f"streams {n} x {C}", lambda x=x, s=square, row=row, u=u: mhc.expand_backward(x, x, s, row, u)
        yield f"streams {n} x {C}", lambda flat=flat, phi=phi: mhc.project(flat, phi)
        yield f"streams {n} x {C}", lambda f=flat, phi=phi, N=N: mhc.project_backward(of(N), of(), f, phi)
        if n <= 4:
            parts = (x, square, row, u, phi)
            yield f"streams {n} x {C}", lambda parts=parts: joined.forward(*parts)
            yield f"streams {n} x {C}", lambda N=N, parts=parts: joined.backward(parts[0], of(N), of(), *parts)
    for n in (4, 8):
        m = of(n, n)
        yield f"matrices {n} x {n}", lambda m=m: generator.resolvent(m)
        yield f"matrices {n} x {n}", lambda m=m: generator.resolvent_backward(m, m)
        yield f"matrices {n} x {n}", lambda m=m: generator.exponential(m)
        yield f"matrices {n} x {n}", lambda m=m: generator.exponential_backward(m, m, m)
        yield f"matrices {n} x {n}", lambda m=m: sinkhorn.forward(m, 20)
        yield f"matrices {n} x {n}", lambda m=m: sinkhorn.backward(m, m, 20)
        m, b, alpha = of(n * n + 2 * n), torch.empty(n * n + 2 * n, device="meta"), torch.empty(3, device="meta")
        yield f"{n} streams", lambda m=m, b=b, alpha=alpha, n=n: coefficients.forward(m, of(), alpha, b, n, 20)
        yield (
            f"{n} streams",
            lambda m=m, b=b, alpha=alpha, n=n: coefficients.backward(of(n), of(n), of(n, n), m, of(), alpha, b, n, 20),
        )
    for stages in (4, 13):
        y, k, w = of(64), [of(64)] * stages, [0.1] * stages
        yield f"{stages} stages", lambda y=y, k=k, w=w: rk.stage_sum(y, of(), w, k)
        yield f"{stages} stages", lambda y=y, k=k, w=w: rk.finish(y, of(), w, w, k, 1e-3, 1e-6)
    for sources, C in ((13, 1024), (4, 7168)):
        w, v, q = of(sources), [of(C, dtype=torch.bfloat16)] * sources, torch.empty(C, device="meta")
        yield f"{sources} sources of {C}", lambda w=w, v=v: depth.mix(w, v)
        yield f"{sources} sources of {C}", lambda w=w, v=v: depth.mix_backward(v[0], w, v)
        yield f"{sources} sources of {C}", lambda w=w, v=v, q=q: depth.attend(q, w, v)
        yield f"{sources} sources of {C}", lambda w=w, v=v, q=q: depth.attend_backward(v[0], q, w, v, of())


@contextmanager
def recorded() -> Iterator[list[tuple[JITFunction, dict[str, Any]]]]:
    """Launches end here, as (kernel, arguments by name), instead of on a device."""
    seen: list[tuple[JITFunction, dict[str, Any]]] = []

    def run(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        seen.append((kernel, dict(zip((p.name for p in kernel.params), args)) | options))

    with mock.patch.object(JITFunction, "run", run):
        yield seen


def every_candidate(operator: str, x: Tensor, sizes: Any, candidates: list, launch: Callable[[Any], Any]) -> Any:
    """Stands in for `tuning.run`."""
    return [launch(tiles) for tiles in candidates][-1]


def compiled(kernel: JITFunction, arguments: dict[str, Any]) -> Any:
    """What Triton would compile for these arguments: pointers aligned to 16 bytes, ints and floats as they are."""
    signature: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list] = {}
    for i, parameter in enumerate(kernel.params):
        value = arguments.pop(parameter.name)
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        parts = value if isinstance(value, tuple) else (value,)
        types = tuple(f"*{TYPES[p.dtype]}" if isinstance(p, Tensor) else TYPES[type(p)] for p in parts)
        signature[parameter.name] = types if isinstance(value, tuple) else types[0]
        for j, part in enumerate(parts):
            if isinstance(part, Tensor) or (isinstance(part, int) and part % 16 == 0):
                attributes[(i, j) if isinstance(value, tuple) else (i,)] = [["tt.divisibility", 16]]
    return triton.compile(ASTSource(kernel, signature, constants, attributes), target=TARGET, options=arguments)


def resources(cubin: bytes) -> tuple[int, int, int]:
    """Registers per thread, bytes of stack per thread (spills) and of shared memory, by cuobjdump."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    registers, stack, shared = (int(re.search(rf"{key}:(\d+)", text).group(1)) for key in ("REG", "STACK", "SHARED"))
    return registers, stack, shared


def kernels(folders: Sequence[str]) -> set[str]:
    """Every kernel in these folders by module and name."""
    found = set()
    for folder in folders:
        module = importlib.import_module(f"odenets.kernels.{folder}.triton")
        found |= {f"{folder}.{name}" for name in vars(module) if name.endswith("_kernel")}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help=f"of {', '.join(FOLDERS)}; all unless given")
    parser.add_argument(
        "--all-tiles", action="store_true", help="every candidate of the tile sizes, not the first alone"
    )
    options = parser.parse_args()
    wanted = options.folders or FOLDERS
    if unknown := set(wanted) - set(FOLDERS):
        parser.error(f"expected folders of {', '.join(FOLDERS)}, got {', '.join(sorted(unknown))}")
    if options.all_tiles:
        tuning.run = every_candidate
    missing = kernels(wanted)
    folders = {
        p.parent.name for p in Path(importlib.import_module("odenets.kernels").__file__).parent.glob("*/triton.py")
    }
    if folders != set(FOLDERS):
        print(f"folders not compiled: {folders ^ set(FOLDERS)}")
        return 1
    print(f"{'kernel':<38}{'for':<24}{'warps':>6}{'registers':>10}{'stack':>7}{'shared':>8}")
    for label, call in launches():
        with recorded() as seen:
            call()
        for kernel, arguments in seen:
            folder = kernel.fn.__module__.split(".")[-2]
            if folder not in wanted:
                continue
            name = f"{folder}.{kernel.fn.__name__}"
            missing.discard(name)
            binary = compiled(kernel, arguments)
            registers, stack, _ = resources(binary.asm["cubin"])
            warps, shared = binary.metadata.num_warps, binary.metadata.shared
            print(f"{name:<38}{label:<24}{warps:>6}{registers:>10}{stack:>7}{shared:>8}", flush=True)
    if missing:
        print(f"no launch given for: {', '.join(sorted(missing))}")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
