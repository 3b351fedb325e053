"""A stack recorded as CUDA graphs trains as it does without. On the CPU with a stand-in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from odenets.blocks import Residual
from odenets.models import FlowStack
from odenets.solvers.compiled import capture, cuda_graph

from ..cuda_stand_in import StandIn, install
from .small_blocks import BLOCKS

SLOW = pytest.mark.slow(reason="capturing a stack takes seconds")


@pytest.fixture
def graphs(monkeypatch) -> type[StandIn]:
    capture.clear()
    return install(monkeypatch)


def make(block="residual", **settings) -> FlowStack:
    torch.manual_seed(0)
    return FlowStack(BLOCKS[block], T=1.5, N=3, compile="cuda_graph", **settings)


def results(stack: nn.Module, *inputs: Tensor) -> list[Tensor]:
    """Outputs and gradients, added up over the inputs."""
    stack.zero_grad()
    ys = []
    for x in inputs:
        ys.append(stack(x))
        ys[-1].square().sum().backward()
    return [*ys, *(x.grad for x in (*inputs, *stack.parameters()))]  # type: ignore[list-item]


def same(stack: FlowStack, *inputs: Tensor) -> None:
    found = []
    for stack.compiled in (False, "cuda_graph"):
        found.append(results(stack, *(x.clone().requires_grad_() for x in inputs)))
    for eager, mine in zip(*found, strict=True):
        torch.testing.assert_close(mine, eager)


@pytest.mark.parametrize("block", [pytest.param(x, marks=SLOW) if x != "residual" else x for x in BLOCKS])
def test_the_same_values_and_gradients(graphs, block):
    """Of three batches one after the other, whose gradients add up; then after a step of the optimizer."""
    stack, batches = make(block, steps="free"), [torch.randn(2, 4) for _ in range(3)]
    same(stack, *batches)
    assert (graphs.recorded, graphs.replays) == (2, 6)
    with torch.no_grad():
        for p in stack.parameters():
            p.mul_(1.1)
    same(stack, batches[0])
    assert graphs.recorded == 2


@SLOW
def test_other_shapes_modes_and_parameters_are_recorded_anew(graphs):
    stack, x = make(), torch.randn(2, 4, requires_grad=True)
    for count, change in (
        (2, lambda: None),
        (4, lambda: stack.blocks[0].requires_grad_(False)),
        (4, lambda: stack.blocks[1].load_state_dict(stack.blocks[2].state_dict())),
        (6, lambda: setattr(stack.blocks[1].branch.out, "bias", nn.Parameter(torch.ones(4)))),
    ):
        change()
        y = stack(x)
        torch.testing.assert_close(y, stack.run(x))
        trained = [p for p in stack.parameters() if p.requires_grad]
        for mine, eager in zip(*(torch.autograd.grad(z.square().sum(), [x, *trained]) for z in (y, stack.run(x)))):
            torch.testing.assert_close(mine, eager)
        assert graphs.recorded == count
    with torch.no_grad():
        for count, size in ((7, 2), (8, 3), (9, 5), (9, 3)):
            x = torch.randn(size, 4)
            torch.testing.assert_close(stack(x), stack.run(x))
            assert graphs.recorded == count


@SLOW
def test_dropout_is_drawn_anew_and_left_out_in_evaluation(graphs):
    stack = FlowStack(lambda: Residual(Around(nn.Dropout(0.5))), N=2, compile="cuda_graph")
    x = torch.randn(20, 4)
    assert not torch.equal(stack(x), stack(x))
    assert graphs.recorded == 1
    stack.eval()
    torch.testing.assert_close(stack(x), stack.run(x))


@SLOW
def test_a_backward_pass_that_comes_too_late_says_so(graphs):
    stack, x = make(), torch.randn(2, 4)
    first, second = stack(x).sum(), stack(x + 1).sum()
    second.backward(retain_graph=True)
    for late in (first, second):
        with pytest.raises(RuntimeError, match=r"keeps what one backward pass needs.*use compile=False"):
            late.backward()


@SLOW
def test_parameters_changed_before_the_backward_pass_are_noticed(graphs):
    stack, x = make(), torch.randn(2, 4)
    loss = stack(x).square().sum()
    with torch.no_grad():
        for p in stack.parameters():
            p.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_is_refused(monkeypatch):
    with pytest.raises(
        ValueError, match=r"compile='cuda_graph': CUDA graphs need a CUDA device, this is cpu; use compile="
    ):
        make()(torch.randn(2, 4))
    with pytest.raises(ValueError, match="'cuda_graph' takes gradient='autograd', got 'checkpoint'"):
        make(gradient="checkpoint")
    install(monkeypatch)
    norm = nn.BatchNorm1d(4)
    stack = FlowStack(lambda: Residual(Around(norm)), N=1, compile="cuda_graph")
    with pytest.raises(ValueError, match=r"the stack cannot be compiled.*changes a tensor in place"):
        stack(torch.randn(2, 4))
    assert not norm.running_mean.any()


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("block", BLOCKS)
def test_on_a_gpu(block):
    stack = make(block).cuda()
    for _ in range(2):
        same(stack, *(torch.randn(64, 4, device="cuda") for _ in range(2)))
    assert len(cuda_graph._graphs) == 1
