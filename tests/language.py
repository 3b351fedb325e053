"""A tiny language model with any block, made from the configuration as the command line makes it."""

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from odenets.configs import schema
from odenets.configs.build import check_targets, instantiate, plain
from odenets.configs.catalog import groups
from odenets.models import LanguageModel

CARRIES_NO_BRANCH = {"hamiltonian"}
LANGUAGE_BLOCKS = [name for name in groups()["block"] if name not in CARRIES_NO_BRANCH]


def tiny_language_model(block: str, *overrides: str) -> LanguageModel:
    """Two layers, width 16, two heads, context 16."""
    words = [
        "experiment=bytes_lm", f"block={block}", "task.network.dim=16", "task.network.context=16",
        "model.N=${blocks_in_layers:2}", *overrides,
    ]  # fmt: skip
    whole = "branch=transformer_layer" in overrides
    words.append("branch.branches.attention.heads=2" if whole else "branch.heads=2")
    if GlobalHydra.instance().is_initialized():
        cfg = compose("train", words)
    else:
        schema.register()
        with initialize_config_module("odenets.configs", version_base="1.3"):
            cfg = compose("train", words)
    config = plain(cfg)
    check_targets(config)
    return instantiate(config["task"], "task").network
