"""Every file in configs/block works in both experiments, or is refused in one line that says why."""

from collections.abc import Iterator

import pytest
import torch
from hydra import compose, initialize_config_module

from odenets.blocks import Block
from odenets.configs import schema
from odenets.configs.build import check_targets, instantiate, plain, refuse_unused_scheme, unused_groups
from odenets.configs.catalog import groups
from odenets.errors import UserError
from odenets.models import FlowStack
from tests.language import CARRIES_NO_BRANCH, tiny_language_model

BLOCKS = groups()["block"]
NEEDS_TEXT = {"engram"}


@pytest.fixture(autouse=True)
def hydra_ready() -> Iterator[None]:
    schema.register()
    with initialize_config_module("odenets.configs", version_base="1.3"):
        yield


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_classifies_digits(name: str):
    config = plain(compose("train", ["experiment=digits", f"block={name}", "task.network.channels=8", "model.N=2"]))
    check_targets(config)
    network = instantiate(config["task"], "task").network
    assert all(isinstance(block, Block) for block in network.flow.blocks)
    images = torch.randn(3, 1, 8, 8)
    if name in NEEDS_TEXT:
        with pytest.raises(ValueError, match="needs"):
            network(images)
        return
    logits = network(images)
    assert logits.shape == (3, 10)
    logits.square().sum().backward()
    unused = [key for key, p in network.flow.blocks[0].named_parameters() if p.grad is None]
    assert not unused


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_models_language(name: str):
    if name in CARRIES_NO_BRANCH:
        with pytest.raises(UserError, match="takes no branch, so it cannot carry the attention"):
            tiny_language_model(name)
        return
    network = tiny_language_model(name)
    assert isinstance(network.flow, FlowStack)
    assert all(isinstance(block, Block) for block in network.flow.blocks)
    logits = network(torch.randint(256, (2, 12)))
    assert logits.shape == (2, 12, 256)
    assert not logits.any()  # the head starts at zero: the first loss is log 256
    network.head.weight.data.normal_()
    network(torch.randint(256, (2, 12))).square().sum().backward()
    attention = [p for key, p in network.flow.named_parameters() if "qkv" in key]
    assert attention
    assert all(p.grad is not None and p.grad.any() for p in attention)


@pytest.mark.parametrize("name", [n for n in BLOCKS if n not in CARRIES_NO_BRANCH])
def test_a_layer_has_one_attention_and_at_least_one_mlp_whatever_the_block(name: str):
    targets = [type(m).__name__ for m in tiny_language_model(name).flow.modules()]
    assert targets.count("RotaryAttention") == 2  # of two layers
    assert targets.count("SwiGLU") in (2, 4)  # Macaron has two


def test_a_combined_branch_makes_a_whole_layer_one_block():
    alternating, combined = (tiny_language_model("residual", *extra) for extra in ((), ("branch=transformer_layer",)))
    assert (alternating.flow.N, combined.flow.N) == (4, 2)
    assert (alternating.flow.h, combined.flow.h) == (1.0, 1.0)
    combined.load_state_dict(dict(zip(combined.state_dict(), alternating.state_dict().values())))
    tokens = torch.randint(256, (2, 9))
    for model in (alternating, combined):
        model.head.weight.data.copy_(torch.arange(256 * 16).view(256, 16).sin())
    torch.testing.assert_close(alternating(tokens), combined(tokens))


@pytest.mark.parametrize("scheme", groups()["scheme"])
def test_every_scheme_reaches_a_block_with_a_linear_part_and_is_refused_by_one_without(scheme: str):
    cfg = compose("train", ["experiment=digits", "block=delta", f"scheme={scheme}"])
    refuse_unused_scheme(cfg)
    block = instantiate(plain(cfg)["block"], "block")()
    assert block.scheme.name in (scheme, {"rk2": "midpoint"}.get(scheme))
    plain_cfg = compose("train", ["experiment=digits", "block=residual", f"scheme={scheme}"])
    if scheme == "forward_euler":
        refuse_unused_scheme(plain_cfg)  # that is what a residual block is
        return
    with pytest.raises(UserError, match=f"scheme={scheme}: .*Residual takes no scheme"):
        refuse_unused_scheme(plain_cfg)


def test_the_transformers_branches_count_as_used():
    cfg = compose("train", ["experiment=bytes_lm"])
    typed = ["branch=swiglu", "branch@branch2=mlp", "block=residual", "field=mlp", "solver=rk4"]
    assert unused_groups(cfg, typed) == ["field", "solver"]


@pytest.mark.parametrize("scheme", groups()["scheme"])
@pytest.mark.parametrize("flow", groups()["flow"])
def test_every_flow_takes_every_scheme_and_any_branch(flow: str, scheme: str):
    words = ["experiment=digits", "block=flow", f"flow={flow}", f"scheme={scheme}", "task.network.channels=8"]
    cfg = compose("train", [*words, "model.N=2"])
    refuse_unused_scheme(cfg)
    assert unused_groups(cfg, ["flow=decay", "scheme=rk4", "branch=conv"]) == []
    network = instantiate(plain(cfg)["task"], "task").network
    network(torch.randn(2, 1, 8, 8)).square().sum().backward()
    unused = [key for key, p in network.flow.blocks[0].named_parameters() if p.grad is None]
    assert not unused


def test_a_flow_that_the_block_does_not_take_is_named():
    cfg = compose("train", ["experiment=digits", "block=delta", "flow=rotation"])
    assert unused_groups(cfg, ["flow=rotation"]) == ["flow"]
