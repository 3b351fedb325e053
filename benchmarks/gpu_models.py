"""Training steps of whole language models: the plain residual beside mHC and Deep Delta Learning; eager, compiled, or with
the stack as CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.gpu_timing import timed
from odenets.blocks import Delta, ManifoldHyperConnections, Residual
from odenets.fields import RotaryAttention, SwiGLU
from odenets.kernels.backend import prefer
from odenets.models import FlowStack, LanguageModel


@dataclass
class Size:
    """Layers (attention and MLP each), width, heads, sequences of so many bytes in a batch."""

    layers: int = 12
    width: int = 1024
    heads: int = 16
    batch: int = 8
    length: int = 1024


BLOCKS: dict[str, Callable[[int], Callable[..., nn.Module]]] = {
    "residual": lambda dim: Residual,
    "mHC, n = 4": lambda dim: partial(ManifoldHyperConnections, dim=dim, streams=4),
    "DDL, d_v = 4": lambda dim: partial(Delta, dim=dim, value_channels=4),
}


ALLOWED = 2e-2  # difference of a loss or a gradient, relative to its norm, between a stack as it is and as CUDA graphs


def build(block: str, size: Size, compile: bool | str = False) -> LanguageModel:
    N = 2 * size.layers
    branches = [
        partial(RotaryAttention, size.width, size.heads, residuals=N), partial(SwiGLU, size.width, residuals=N)
    ]  # fmt: skip
    flow = FlowStack(BLOCKS[block](size.width), T=float(N), N=N, branches=branches, compile=compile)
    return LanguageModel(flow, size.width, size.length)


def difference(model: LanguageModel, tokens: torch.Tensor) -> float:
    """How far loss and gradients with the stack as CUDA graphs are from those without, at most, relative to their norms.

    Of two batches, the second being the first backwards: a graph is recorded with one and replayed with the other.
    """
    nn.init.normal_(model.head.weight, std=0.02)  # it starts at zero, and with it what reaches the stack
    found: list[list[torch.Tensor]] = []
    for model.flow.compiled in (False, "cuda_graph"):  # type: ignore[assignment]
        results = []
        for batch in (tokens, tokens.flip(0, 1)):
            loss = nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1).float(), batch[:, 1:].flatten())
            results += [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]
        found.append(results)
    return max(
        float((a.double() - b.double()).norm() / (1e-12 + b.double().norm())) for a, b in zip(found[1], found[0])
    )


def measure(size: Size, block: str, backend: str, compiled: bool | str) -> dict[str, Any]:
    """Time of a training step (loss, gradients, AdamW) in bfloat16 and its peak memory; without a GPU, one step. With
    compiled="cuda_graph" only where loss and gradients are those of the eager model, else a note.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = build(block, size, "cuda_graph" if compiled == "cuda_graph" else False).to(device, torch.bfloat16)
    step_of = torch.compile(model) if compiled is True else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device == "cuda")
    tokens = torch.randint(256, (size.batch, size.length + 1), device=device)
    losses = []

    def step() -> None:
        loss = nn.functional.cross_entropy(step_of(tokens[:, :-1]).flatten(0, 1).float(), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())

    row: dict[str, Any] = {
        "block": block, "backend": backend, "compiled": compiled, **vars(size),
        "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip
    with prefer(backend):
        if compiled == "cuda_graph":
            try:
                row["differs"] = difference(model, tokens)
            except Exception as error:  # refused: the others are still measured
                row["note"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                return row
            if not row["differs"] <= ALLOWED:
                row["note"] = f"wrong, by {row['differs']:.1e}: no speed"
                return row
        step()
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            times = timed([step], repeats=12)
            assert times is not None
            row |= {"step_ms": times.p50 / 1e3, "p80_ms": times.p80 / 1e3}
            row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    row["losses_finite"] = bool(torch.stack(losses).isfinite().all())
    return row
