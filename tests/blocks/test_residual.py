"""The residual block against the formula it states."""

import pytest
import torch
from torch import nn

from odenets.blocks import Block, Residual
from odenets.fields import MLP


def test_a_step_is_x_plus_h_times_the_branch_of_the_normed_state():
    torch.manual_seed(0)
    branch, norm = MLP(4, 8, time="concat").double(), nn.LayerNorm(4).double()
    block = Residual(branch, norm)
    x = torch.randn(5, 4, dtype=torch.float64)
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(block(0.3, x, 0.25), x + 0.25 * branch(0.3, normed))
    torch.testing.assert_close(block.field(0.3, x), branch(0.3, normed))


def test_step_sizes_and_times_per_sample_equal_a_loop():
    torch.manual_seed(0)
    block = Residual(MLP(4, 8, time="concat"))
    x, t, h = torch.randn(5, 3, 4), torch.rand(5), torch.rand(5)
    together = block(t, x, h)
    for i in range(5):
        torch.testing.assert_close(together[i], block(t[i], x[i : i + 1], h[i])[0])


def test_a_zero_branch_is_the_identity_and_the_state_is_the_activation():
    block = Residual(MLP(4, out_scale=0))
    x = torch.randn(5, 4)
    torch.testing.assert_close(block(0.0, x, 0.5), x, rtol=0, atol=0)
    assert block.lift(x) is x
    assert block.readout(x) is x


def test_a_block_must_say_how_it_steps():
    with pytest.raises(TypeError, match="abstract"):
        Block()  # type: ignore[abstract]
