"""Averaged weights."""

import torch
from torch import nn

from odenets.train.ema import Averaged


def test_the_average_is_the_weighted_sum_of_the_past():
    module = nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, 0.0)
    averaged = Averaged(module, decay=0.5)
    expected = 0.0
    for step, value in enumerate([1.0, 3.0, -2.0], start=1):
        torch.nn.init.constant_(module.weight, value)
        averaged.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with averaged.applied():
        torch.testing.assert_close(module.weight.item(), expected, rtol=1e-6, atol=0)
    assert module.weight.item() == -2.0


def test_decay_zero_keeps_the_networks_own_weights():
    module = nn.Linear(2, 2)
    averaged = Averaged(module, decay=0.0)
    averaged.update(1)
    before = module.weight.clone()
    with averaged.applied():
        assert torch.equal(module.weight, before)
    assert averaged.state_dict() == {}
