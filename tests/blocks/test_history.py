"""Dense connections and attention over depth against loops written from the papers."""

import math

import pytest
import torch
from torch import Tensor, nn

from odenets.blocks import AttentionResidual, Mudd, Residual
from odenets.fields import MLP, Attention
from odenets.models import FlowStack
from tests.blocks.cases import CASES, DIM, QKV, assert_same, made
from tests.blocks.test_reversible import fields, parameters


def sequence() -> Tensor:
    return torch.randn(2, 5, DIM, dtype=torch.float64, requires_grad=True)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def mudd_by_hand(blocks, x: Tensor, streams: int, window: int, f, h: float) -> Tensor:
    """One [B, L] weight at a time; the last stream is the output."""
    states = [x]
    inputs = [x] * streams
    for n, block in enumerate(blocks):
        new = inputs[-1] + h * f(block, n * h, inputs)
        states.append(new)
        normed = new / (new.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        hidden = gelu(torch.einsum("bld,kd->blk", normed, block.w1.weight))
        a = torch.einsum("blk,jk->blj", hidden, block.w2.weight) + block.a.reshape(-1)  # [B, L, streams * window]
        inputs = []
        for s in range(streams):
            total = torch.zeros_like(x)
            for back in range(min(window, len(states))):
                total = total + a[:, :, s * window + back, None] * states[-1 - back]
            inputs.append(total)
    return inputs[-1]


@pytest.mark.parametrize("h", [1.0, 0.4])
@pytest.mark.parametrize("window", [2, 7])
@pytest.mark.parametrize("streams", [1, 2, 4])
def test_mudd_is_its_papers_recursion(streams: int, window: int, h: float):
    torch.manual_seed(0)
    branch = QKV if streams == 4 else lambda: MLP(DIM, 12, depth=1, time="concat")
    stack = FlowStack(made(lambda: Mudd(branch(), DIM, window, streams)), T=4 * h, N=4)

    def f(block, t, inputs):
        return block.branch(t, *inputs[: max(1, streams - 1)])

    x = sequence()
    assert_same(stack(x), mudd_by_hand(stack.blocks, x, streams, window, f, h), [x, *stack.parameters()])


def test_mudd_with_a_second_sublayer_and_norms():
    torch.manual_seed(0)
    stack = FlowStack(made(CASES["mudd-2"]), T=1.5, N=3)

    def f(block, t, inputs):  # the whole layer's increment over h = 0.5
        y = inputs[-1] + 0.5 * block.branch(t, block.norm(inputs[0]) if block.norm else inputs[0])
        y = y + 0.5 * block.branch2(t, block.norm2(y))
        return (y - inputs[-1]) / 0.5

    x = sequence()
    assert_same(stack(x), mudd_by_hand(stack.blocks, x, 2, 3, f, 0.5), [x, *stack.parameters()])


@pytest.mark.parametrize("streams", [1, 2])
def test_mudd_starts_as_the_residual_stack(streams: int):
    branches = fields(4)
    a, b = list(branches), list(branches)
    stack = FlowStack(lambda: Mudd(a.pop(0), DIM, streams=streams).double(), T=2.0, N=4)
    plain = FlowStack(lambda: Residual(b.pop(0)), T=2.0, N=4)
    x = sequence()
    assert_same(stack(x), plain(x), [x, *parameters(branches)])


def test_mudd_keeps_no_more_states_than_its_window():
    torch.manual_seed(0)
    block = Mudd(MLP(DIM), DIM, window=3)
    state = block.lift(torch.randn(2, DIM))
    for n in range(6):
        state = block(float(n), state, 1.0)
        assert len(state.earlier) == min(n + 2, 3)


@pytest.mark.parametrize("h", [1.0, 0.4])
def test_attention_residual_is_its_papers_equation(h: float):
    torch.manual_seed(0)
    stack = FlowStack(made(CASES["attention-residual"]), T=4 * h, N=4)
    x0 = x = sequence()
    values = [x]
    for n, block in enumerate(stack.blocks):
        values.append(h * block.field.branch(n * h, block.field.norm(x)))
        scores = [
            torch.exp(torch.einsum("bld,d->bl", v / (v.square().mean(-1, keepdim=True) + 1e-6).sqrt(), block.query))
            for v in values
        ]
        x = sum((s / sum(scores))[..., None] * v for s, v in zip(scores, values, strict=True))
    assert_same(stack(x0), x, [x0, *stack.parameters()])


def test_attention_residual_starts_as_the_residual_stack_over_the_number_of_terms():
    torch.manual_seed(0)
    branches = [Attention(DIM, 2, causal=True).double() for _ in range(5)]

    def norm() -> nn.Module:  # blind to scale
        return nn.RMSNorm(DIM, eps=1e-30).double()

    a, b = list(branches), list(branches)
    stack = FlowStack(lambda: AttentionResidual(a.pop(0), DIM, norm()).double(), T=5.0, N=5)
    plain = FlowStack(lambda: Residual(b.pop(0), norm()), T=5.0, N=5)
    x = sequence()
    assert_same(stack(x), plain(x) / 6, [x, *parameters(branches)])


@pytest.mark.parametrize("name", ["mudd", "attention-residual"])
def test_features_may_lie_on_another_axis(name: str):
    class Channels(nn.Module):
        """A branch of [B, L, D] on [B, D, L]."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, t, x):
            return self.inner(t, x.transpose(1, 2)).transpose(1, 2)

    def build(axis: int):
        torch.manual_seed(0)
        branch = Attention(DIM, 2)
        wrapped = branch if axis == -1 else Channels(branch)
        block = Mudd(wrapped, DIM, axis=axis) if name == "mudd" else AttentionResidual(wrapped, DIM, axis=axis)
        with torch.no_grad():
            for p in block.parameters():
                p.add_(0.2 * torch.randn_like(p))
        return FlowStack(lambda: block.double(), N=3, tied=True)

    x = sequence()
    last = build(-1)(x)
    torch.testing.assert_close(build(1)(x.transpose(1, 2)).transpose(1, 2), last, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(build(-2)(x.transpose(1, 2)).transpose(1, 2), last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Mudd(MLP(2), 2, streams=3), "1, 2 or 4 streams, got 3"),
        (lambda: Mudd(MLP(2), 2, window=0), "window >= 1, got 0"),
    ],
)
def test_wrong_input_is_an_error_that_says_what_came_and_what_is_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
