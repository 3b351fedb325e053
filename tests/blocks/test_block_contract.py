"""What every block keeps: causality, images, steps per sample, dtype, gradients to all weights, its vector field."""

import pytest
import torch
from torch import nn

from odenets.blocks import Plain
from odenets.fields import MLP, Attention, Conv
from odenets.models import FlowStack
from tests.blocks.catalog import BLOCKS, SEQUENCE_BLOCKS, shaken, step

D = 6


@pytest.mark.parametrize("name", SEQUENCE_BLOCKS)
def test_a_change_at_one_position_moves_no_output_before_it(name: str):
    torch.manual_seed(0)
    make = SEQUENCE_BLOCKS[name]
    stack = FlowStack(lambda: shaken(make(Attention(D, 2, causal=True, fused=False), D)), T=2.0, N=2).double()
    x = torch.randn(2, 9, D, dtype=torch.float64)
    changed = x.clone()
    changed[:, 5] += torch.randn(2, D, dtype=torch.float64)
    moved = (stack(changed) - stack(x)).abs().amax((0, 2))
    assert moved[:5].max() < 1e-13
    assert moved[5:].min() > 1e-6


@pytest.mark.parametrize("name", SEQUENCE_BLOCKS)
def test_gradients_reach_every_parameter_of_a_middle_block(name: str):
    torch.manual_seed(0)
    stack = FlowStack(lambda: shaken(SEQUENCE_BLOCKS[name](MLP(D, 8), D)), T=2.0, N=3)
    stack(torch.randn(3, 7, D)).square().sum().backward()
    for parameter, value in stack.block(1).named_parameters():
        assert value.grad is not None, parameter
        assert value.grad.abs().max() > 0, parameter
    for n in range(3):  # and what the ends own
        for parameter, value in stack.block(n).named_parameters():
            assert value.grad is not None, (n, parameter)


def test_gradients_reach_every_parameter_at_initialisation():
    # W = 0 in hyper-connections: what multiplies it, or stands inside it, waits one step.
    waiting = {"HC": {"s_a", "s_b", "norm.weight", "norm.bias"}}
    for name, make in SEQUENCE_BLOCKS.items():
        torch.manual_seed(0)
        stack = FlowStack(lambda make=make: make(MLP(D, 8), D), T=3.0, N=3)
        stack(torch.randn(3, 7, D)).square().sum().backward()
        still = {p for p, v in stack.block(1).named_parameters() if v.grad is None or v.grad.abs().max() == 0}
        assert still == {f"flow.coefficients.{p}" for p in waiting.get(name, set())}, name


@pytest.mark.parametrize("name", BLOCKS)
def test_steps_and_times_per_sample_equal_a_loop(name: str):
    torch.manual_seed(0)
    block = shaken(BLOCKS[name](MLP(D, 8, time="concat"), D)).double()
    x = torch.randn(4, 3, D, dtype=torch.float64)
    t, h = torch.rand(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    together = step(block, t, x, h)
    for i in range(4):
        torch.testing.assert_close(together[i : i + 1], step(block, t[i], x[i : i + 1], h[i]))
        torch.testing.assert_close(together[i : i + 1], step(block, float(t[i]), x[i : i + 1], float(h[i])))


class OnPixels(nn.Module):
    """A field on images [B, C, H, W] as a field on [B, H, W, C]."""

    def __init__(self, field: nn.Module):
        super().__init__()
        self.field = field

    def forward(self, t: torch.Tensor | float, x: torch.Tensor) -> torch.Tensor:
        return self.field(t, x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


@pytest.mark.parametrize("name", BLOCKS)
def test_images_equal_their_pixels_as_tokens(name: str):
    torch.manual_seed(0)
    on_pixels = shaken(BLOCKS[name](OnPixels(Conv(D, 8)), D)).double()
    on_images = BLOCKS[name](Conv(D, 8), D).double()
    with torch.no_grad():
        for a, b in zip(on_images.parameters(), on_pixels.parameters(), strict=True):
            a.copy_(b)
    images = torch.randn(2, D, 5, 4, dtype=torch.float64)
    expected = step(on_pixels, 0.0, images.permute(0, 2, 3, 1), 0.5).permute(0, 3, 1, 2)
    torch.testing.assert_close(step(on_images, 0.0, images, 0.5), expected)


@pytest.mark.parametrize("name", SEQUENCE_BLOCKS)
def test_no_weight_is_held_under_two_names(name: str):
    block = SEQUENCE_BLOCKS[name](MLP(D, 8), D)
    names = [n for n, _ in block.named_parameters(remove_duplicate=False)]
    assert len(names) == len(list(block.parameters()))


@pytest.mark.parametrize("name", SEQUENCE_BLOCKS)
def test_state_keeps_shape_and_dtype(name: str):
    torch.manual_seed(0)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        block = SEQUENCE_BLOCKS[name](MLP(D, 8), D).to(dtype)
        state = block.lift(torch.randn(2, 3, D, dtype=dtype))
        new = block(0.0, state, 0.5)
        assert (new.shape, new.dtype) == (state.shape, dtype)
        assert block.readout(new).shape == (2, 3, D)


@pytest.mark.parametrize("name", [n for n in BLOCKS if n not in ("plain", "mHC", "delta write-only")])
def test_a_small_step_follows_the_blocks_vector_field(name: str):
    torch.manual_seed(0)
    block = shaken(BLOCKS[name](MLP(D, 8, time="concat"), D)).double()
    state = block.lift(torch.randn(2, 3, D, dtype=torch.float64))
    state = state + torch.randn_like(state)
    h = 1e-6
    slope = (block(0.3, state, h) - state) / h
    torch.testing.assert_close(slope, block.field(0.3, state), rtol=1e-4, atol=1e-4)


def test_plain_has_no_flow_and_ignores_h():
    assert not hasattr(Plain(nn.Identity()), "field")
