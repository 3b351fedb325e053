"""How a transformer's stack is cut into blocks: two resolvers for configuration files.

A block with one branch makes a layer with two blocks, attention then MLP. A block that takes both branches itself
(`branch2: ${branch2}` in its file), and a branch that combines both, make a layer with one.

    branches: ${sublayers:}      the two branches of the alternating stack, or null for one block per layer
    N: ${blocks_in_layers:4}     8 or 4
"""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

WHOLE_LAYERS = "odenets.fields.Combined"


def register() -> None:
    """Make the resolvers known to OmegaConf."""
    OmegaConf.register_new_resolver("sublayers", _sublayers, replace=True)
    OmegaConf.register_new_resolver("blocks_in_layers", _blocks_in_layers, replace=True)


def _sublayers(*, _root_: DictConfig) -> dict[str, Any] | None:
    if _one_block_per_layer(_root_):
        return None
    return {"attention": _factory(_root_.branch), "mlp": _factory(_root_.branch2)}


def _blocks_in_layers(layers: int, *, _root_: DictConfig) -> int:
    return layers if _one_block_per_layer(_root_) else 2 * layers


def _one_block_per_layer(root: DictConfig) -> bool:
    config = OmegaConf.to_container(root)  # as written: interpolations stay text
    assert isinstance(config, Mapping)
    branch = config.get("branch")
    combined = isinstance(branch, Mapping) and branch.get("_target_") == WHOLE_LAYERS
    return combined or "${branch2}" in str(config.get("block"))


def _factory(branch: Any) -> dict[str, Any]:
    node = OmegaConf.to_container(branch, resolve=True)
    assert isinstance(node, dict)
    return {**node, "_partial_": True}  # type: ignore[dict-item]


register()
