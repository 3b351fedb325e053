"""Every block's YAML builds a stack that runs, on sequences and on images."""

from collections.abc import Iterator

import pytest
import torch
from hydra import compose, initialize_config_module

from odenets.configs import schema
from odenets.configs.build import instantiate, plain
from odenets.configs.catalog import groups
from odenets.models import FlowStack

WITH_AXIS = ("hamiltonian", "antisymmetric", "mudd", "attention_residual")


@pytest.fixture(autouse=True)
def hydra_ready() -> Iterator[None]:
    schema.register()
    with initialize_config_module("odenets.configs", version_base="1.3"):
        yield


def stack(*overrides: str) -> FlowStack:
    factory = instantiate(plain(compose("train", ["experiment=digits", *overrides]))["block"], "block")
    return FlowStack(factory, N=2)


@pytest.mark.parametrize("name", groups()["block"])
def test_block_runs_on_sequences(name: str):
    x = torch.randn(2, 5, 32)
    y = stack(f"block={name}", "field=attention")(x, {"ids": torch.randint(0, 9, (2, 5))})
    assert y.shape == x.shape
    assert not torch.equal(y, x)


@pytest.mark.parametrize("name", WITH_AXIS)
def test_block_runs_on_images(name: str):
    x = torch.randn(2, 32, 4, 4)
    y = stack(f"block={name}", "block.axis=1")(x)
    assert y.shape == x.shape
    assert not torch.equal(y, x)
