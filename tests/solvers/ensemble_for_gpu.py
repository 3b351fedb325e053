"""Compiles the ensembles' Triton kernels for a GPU without having one: `python -m tests.solvers.ensemble_for_gpu`.

Prints registers and spilled bytes (STACK) of every kernel, for compute capability 9.0. Without TRITON_INTERPRET.
"""

from __future__ import annotations

import sys
from typing import Any
from unittest import mock

import torch

from odenets.solvers import Event, solve
from odenets.solvers.ensemble import run_triton
from odenets.solvers.ensemble import solve as solving
from odenets.solvers.ensemble.fragments import Program
from odenets.solvers.ensemble.problem import Buffers, Inputs
from tests.kernels.compile_for_gpu import compiled, recorded, resources


def lorenz(t, y, rho):
    x, v, z = y.unbind(-1)
    return torch.stack([10 * (v - x), x * (rho - z) - v, x * v - 8 / 3 * z], -1)


def everything(t, y, rho):
    x, v, z = y.unbind(-1)
    return torch.stack(
        [torch.tanh(x) ** 1.5 - torch.expm1(v), torch.tan(z) + torch.erf(x), rho * torch.sinh(v).floor()], -1
    )


CASES: list[tuple[str, dict[str, Any]]] = [
    ("tsit5", {}),
    ("tsit5, 32 bits", {"dtype": torch.float32}),
    ("tsit5, 9 outputs", {"outputs": 9}),
    ("dopri5, all functions", {"solver": "dopri5", "field": everything}),
    ("rodas5p, 9 outputs", {"solver": "rodas5p", "outputs": 9}),
    ("kvaerno3, 9 outputs", {"solver": "kvaerno3", "outputs": 9}),
    ("radauIIA5", {"solver": "radauIIA5"}),
    ("tsit5, sensitivities", {"gradient": True, "outputs": 3}),
    ("tsit5, events", {"events": [Event(lambda t, y, rho: y[:, 0], terminal=True), Event(lambda t, y, rho: y[:, 1])]}),
]


def launch(program: Program, inputs: Inputs, buffers: Buffers) -> None:
    run_triton.launch(program, inputs, buffers)
    for x in (buffers.status, buffers.accepted, buffers.rejected, buffers.updates):  # nothing ran
        x.zero_()


def kernels() -> Any:
    """(name, kernel, arguments) of every case, as it would be launched."""
    for name, case in CASES:
        dtype, field = case.pop("dtype", torch.float64), case.pop("field", lorenz)
        ts = torch.linspace(0, 1, case.pop("outputs", 2), dtype=torch.float64)
        y0 = torch.ones(64, 3, dtype=dtype, requires_grad=case.pop("gradient", False))
        args = (torch.linspace(0, 28, 64, dtype=dtype),)
        with recorded() as seen, mock.patch.object(solving, "_backend", return_value=launch):
            solve(field, y0, ts, args=args, ensemble=True, throw=False, **{"solver": "tsit5", **case})
        ((kernel, arguments),) = seen
        yield name, kernel, arguments


def main() -> int:
    print(f"{'program':<28}{'registers':>10}{'stack':>7}")
    for name, kernel, arguments in kernels():
        binary = compiled(kernel, arguments)
        registers, stack, _ = resources(binary.asm["cubin"])
        print(f"{name:<28}{registers:>10}{stack:>7}", flush=True)
        if "--ptx" in sys.argv:
            print(binary.asm["ptx"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
