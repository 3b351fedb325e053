"""The deep language model: memory that does not grow with depth, and a loss that falls."""

import pytest
import torch
from hydra import compose, initialize_config_module
from torch.nn import functional as F

from benchmarks.memory import PeakMemory
from odenets.configs import schema
from odenets.configs.build import instantiate, plain
from odenets.models import LanguageModel


def deep(*overrides: str) -> LanguageModel:
    """The experiment's model at width 8."""
    schema.register()
    words = ["experiment=deep_lm", "task.network.dim=8", "branch.heads=1", "model.nodes=4", *overrides]
    torch.manual_seed(0)
    with initialize_config_module("odenets.configs", version_base="1.3"):
        return instantiate(plain(compose("train", words))["task"], "task").network


def loss(model: LanguageModel, tokens: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def peak(depth: int, *overrides: str) -> int:
    """Bytes at most alive in a step of training besides weights and their gradients."""
    model = deep(f"model.N={depth}", *overrides)
    tokens = torch.randint(256, (2, 17))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    with PeakMemory() as memory:
        loss(model, tokens).backward()
    return memory.peak


@pytest.mark.slow(reason="64 layers twice, eight seconds; models/test_stack_memory holds every gradient to its memory")
def test_live_memory_at_depth_64_is_that_at_depth_16():
    assert peak(64) <= 1.05 * peak(16)
    assert peak(16, "gradient=autograd") > 2.5 * peak(4, "gradient=autograd")  # the meter sees what is kept


def test_weights_do_not_grow_with_depth_and_the_default_is_256_blocks():
    shallow, full = deep("model.N=16"), deep()
    assert len(list(shallow.parameters())) == len(list(full.parameters()))
    assert full.flow.N == 256


def test_a_few_steps_fall():
    model = deep("model.N=16")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    tokens = torch.tensor(list(b"the flow of a field, the field of a flow. "))[None].expand(4, -1)
    found = []
    for _ in range(6):
        optimizer.zero_grad()
        value = loss(model, tokens)
        value.backward()
        optimizer.step()
        found.append(float(value.detach()))
    assert abs(found[0] - 5.545) < 1e-2  # log 256: the head starts at zero
    assert found[-1] < 5.1
