"""The operators as `gpu.py` measures them: sizes, bytes that cannot be avoided, and peers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_timing import Times, timed
from tests.kernels.operators import OPERATORS, Inputs, mapped, outputs, tensors

STREAMS = 4
VALUE_CHANNELS = 4


@dataclass
class Case:
    """`size(C)` is what the operator's maker takes beside the tokens; bytes are per token (README of the operator)."""

    size: Callable[[int], tuple[int, ...]]
    forward_bytes: Callable[[int], float]
    backward_bytes: Callable[[int], float]
    widths: Sequence[int] | None = None  # of its own: it does not depend on C
    dtype: torch.dtype = torch.bfloat16


def _streams(forward: float, backward: float) -> Case:
    return Case(lambda C: (STREAMS, C), lambda C: 2 * C * forward, lambda C: 2 * C * backward)


def _matrices(forward: float, backward: float) -> Case:
    return Case(
        lambda _: (STREAMS,), lambda _: forward * STREAMS**2, lambda _: backward * STREAMS**2, [0], torch.float32
    )


# elements of C that a token's streams have: n = 4
CASES = {
    "delta": Case(
        lambda C: (C, VALUE_CHANNELS),
        lambda C: 2 * C * (2 * VALUE_CHANNELS + 1),
        lambda C: 2 * C * (3 * VALUE_CHANNELS + 2),
    ),
    "delta_compress": Case(
        lambda C: (C, VALUE_CHANNELS),
        lambda C: 2 * C * (2 * VALUE_CHANNELS + 2),
        lambda C: 2 * C * (3 * VALUE_CHANNELS + 3),
    ),
    "project": _streams(4, 8),
    "aggregate": _streams(5, 9),
    "aggregate_through": _streams(5, 13),
    "expand": _streams(9, 14),
    "expand_project": _streams(9, 14),
    "sinkhorn": _matrices(8, 12),
    "coefficients": Case(
        lambda _: (STREAMS,),
        lambda _: 8 * (STREAMS**2 + 2 * STREAMS) + 4,
        lambda _: 12 * (STREAMS**2 + 2 * STREAMS) + 8,
        [0],
        torch.float32,
    ),
    "resolvent": _matrices(8, 12),
    "exponential": _matrices(12, 16),
    # three of four stages have a weight; backward in plain torch: g read, a gradient for each of four stages
    "stage_sum": Case(lambda C: (C,), lambda C: 2 * C * 5, lambda C: 2 * C * 5),
    "finish": Case(lambda C: (C,), lambda C: 2 * C * 6, lambda C: 2 * C * 5),
    "mix": Case(lambda C: (C,), lambda C: 2 * C * 6, lambda C: 2 * C * 11),
    "attend": Case(lambda C: (C,), lambda C: 2 * C * 4, lambda C: 2 * C * 7),
}


def peers(name: str, compiled: bool) -> dict[str, Callable[..., tuple[Tensor, ...]]]:
    """What an operator is measured beside: its own kernel, the reference, and what is installed. Inputs -> outputs."""
    operator = OPERATORS[name]
    found: dict[str, Callable[..., tuple[Tensor, ...]]] = {
        "triton": lambda inputs: outputs(operator, inputs, "triton"),
        "eager": lambda inputs: outputs(operator, inputs, "reference"),
    }
    if compiled:
        backend = "inductor" if torch.cuda.is_available() else "aot_eager"
        torch._dynamo.reset()
        found["compiled"] = torch.compile(lambda inputs: outputs(operator, inputs, "reference"), backend=backend)
    if importlib.util.find_spec("liger_kernel"):
        found |= _liger(name)
    return found


def _liger(name: str) -> dict[str, Callable[..., tuple[Tensor, ...]]]:
    try:
        from liger_kernel.transformers.functional import liger_mhc_post_res, liger_mhc_pre
    except ImportError:  # a release from before it had them
        return {}
    calls: dict[str, Callable[..., tuple[Tensor, ...]]] = {
        "aggregate": lambda i: (liger_mhc_pre(i["x"], i["pre"].float()),),
        "expand": lambda i: (liger_mhc_post_res(i["x"], i["f"], i["post"], i["mixing"]),),
    }
    return {"liger": calls[name]} if name in calls else {}


def measure(name: str, C: int, tokens: int, compiled: bool) -> Iterator[dict[str, Any]]:
    """Rows of one operator at one size, forward and backward, one per implementation."""
    case, operator = CASES[name], OPERATORS[name]
    sets = [_inputs(name, C, tokens) for _ in range(2 if torch.cuda.is_available() else 1)]
    exact = [x.detach().float() for x in outputs(operator, sets[0], "reference")]
    for label, call in peers(name, compiled).items():
        agrees = all(_close(a, e) for a, e in zip(call(sets[0]), exact, strict=True))
        with torch.no_grad():
            forward = timed([lambda i=i, call=call: call(i) for i in sets])
        yield _row(name, C, tokens, "forward", label, agrees, case.forward_bytes(C) * tokens, forward)
        results = [[x for x in call(i) if x.requires_grad] for i in sets]
        probes = [torch.randn_like(x) for x in results[0]]
        backward = timed(
            [
                lambda i=i, r=r, probes=probes: torch.autograd.grad(
                    r, tensors(i), probes, retain_graph=True, allow_unused=True
                )
                for i, r in zip(sets, results)
            ]
        )
        del results
        yield _row(name, C, tokens, "backward", label, agrees, case.backward_bytes(C) * tokens, backward)


def _inputs(name: str, C: int, tokens: int) -> Inputs:
    case, operator = CASES[name], OPERATORS[name]
    made = operator.make((tokens,), *case.size(C))
    return mapped(made, lambda key, x: (x if key in operator.wide else x.to(case.dtype)).detach().requires_grad_())


def _close(actual: Tensor, exact: Tensor) -> bool:
    return float((actual.detach().float() - exact).norm()) <= 2**-6 * float(exact.norm())


def _row(
    name: str, C: int, tokens: int, way: str, label: str, agrees: bool, moved: float, times: Times | None
) -> dict[str, Any]:
    row = {
        "operator": name, "C": C, "tokens": tokens, "pass": way, "implementation": label, "agrees": agrees,
        "bytes": moved,
    }  # fmt: skip
    if times is not None:
        speed = times.gigabytes_per_second(moved)
        row |= {"p20_us": times.p20, "p50_us": times.p50, "p80_us": times.p80, "gb_per_s": speed}
    return row
