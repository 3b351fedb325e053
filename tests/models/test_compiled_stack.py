"""A stack whose steps are compiled computes what it computes, and compiles no more the deeper it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from odenets.blocks import Momentum, Residual
from odenets.fields import MLP
from odenets.models import FlowStack, compiled_step
from odenets.solvers.compiled import capture

from .small_blocks import BLOCKS

MISSING = capture.why_unavailable("cpu")
needs_compiler = pytest.mark.skipif(bool(MISSING), reason=MISSING or "available")
SLOW = pytest.mark.slow(reason="capturing a block takes seconds")


@pytest.fixture
def captured(monkeypatch):
    """Captured and differentiated by the compiler, run operator by operator."""
    capture.clear()
    monkeypatch.setattr(compiled_step, "BACKEND", "aot_eager")
    yield
    capture.clear()


def results(stack: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    y = stack(x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *stack.parameters()])]


@needs_compiler
@pytest.mark.parametrize(
    ("block", "mode", "gradient"),
    [
        ("residual", "step", "recursive"),
        pytest.param("delta", "step", "autograd", marks=SLOW),
        pytest.param("delta", "step", "checkpoint", marks=SLOW),
        pytest.param("mhc", "step", "downdate", marks=SLOW),
        pytest.param("mhc", "stack", "autograd", marks=SLOW),
    ],
)
def test_the_same_values_and_gradients(captured, block, mode, gradient):
    torch.manual_seed(0)
    stack = FlowStack(BLOCKS[block], T=1.5, N=3, gradient=gradient, compile=mode)
    x = torch.randn(2, 4, requires_grad=True)
    found = results(stack, x)
    stack.compiled = False
    for mine, eager in zip(found, results(stack, x), strict=True):
        torch.testing.assert_close(mine, eager)


@needs_compiler
def test_programs_do_not_grow_with_the_depth(captured):
    graphs = []
    for N in (2, 8):
        capture.clear()
        before = counters["stats"]["unique_graphs"]
        kinds = [lambda: Residual(MLP(4, 8)), lambda: Residual(MLP(4, 4))]
        FlowStack(kinds, T=1.0, N=N, compile="step")(torch.randn(2, 4, requires_grad=True))
        graphs.append(counters["stats"]["unique_graphs"] - before)
    assert graphs[0] == graphs[1] > 0


@needs_compiler
def test_a_block_that_cannot_be_captured_is_named(captured):
    class Looks(nn.Module):
        def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    stack = FlowStack(lambda: Residual(Looks()), N=1, compile="step")
    with pytest.raises(ValueError, match=r"test_compiled_stack.py:\d+: .*torch.where does not; use compile=False"):
        stack(torch.ones(2, 3))


def test_wrong_modes():
    with pytest.raises(ValueError, match="False, 'step', 'stack' or 'cuda_graph', got 'solve'"):
        FlowStack(BLOCKS["residual"], compile="solve")
    with pytest.raises(ValueError, match="takes gradient='autograd', got 'checkpoint'"):
        FlowStack(BLOCKS["residual"], compile="stack", gradient="checkpoint")
    with pytest.raises(ValueError, match="does not take gradient='reversible'"):
        FlowStack(lambda: Momentum(MLP(4, 4)), compile="step", gradient="reversible")
