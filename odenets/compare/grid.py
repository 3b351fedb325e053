"""From the words of a grid to its configurations: every combination once, those that are equal merged."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.singleton import Singleton
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from odenets.configs import schema
from odenets.configs.build import check_targets, group_names, plain, refuse_unused_scheme, unused_groups
from odenets.configs.explain import CONFIG_ERRORS, explain
from odenets.configs.own import take_own_classes
from odenets.errors import UserError


@dataclass
class Configuration:
    """One row of the comparison: a choice of every swept key but the seed.

    Attributes:
        choice: the swept keys and their values; a key that has no effect here has the value "".
        words: the overrides that make it, without the seed.
        cfg: the composed configuration.
        refused: why it cannot run; empty where it can.
        equal: other combinations of the grid that are this same configuration.
        changed: what fair terms set, such as {"branch.hidden": 27}.
    """

    choice: dict[str, str]
    words: list[str]
    cfg: DictConfig
    refused: str = ""
    equal: list[dict[str, str]] = field(default_factory=list)
    changed: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the choice is called: its values, with the key where a value says little by itself."""
        values = [
            value if re.match("(?i)(?!(true|false|null)$)[a-z]", value) else f"{key}={value}"
            for key, value in self.choice.items()
            if value
        ]
        return " ".join(values) or "as configured"


def expand(words: list[str], config_dir: str | None = None) -> tuple[list[Configuration], list[int]]:
    """The configurations of a grid and its seeds; UserError for words that no configuration can be made of."""
    schema.register()
    axes = _axes(words)
    seeds = _seeds(axes.pop("seed", ["0"]))
    swept = [key for key, values in axes.items() if len(values) > 1]
    found: dict[tuple[str, ...], Configuration] = {}
    with initialize_config_module("odenets.configs", version_base="1.3"):
        for values in itertools.product(*axes.values()):
            choice = dict(zip(axes, values))
            one = _configuration(choice, swept, config_dir)
            known = found.setdefault(tuple(one.words), one)
            if known is not one:
                known.equal.append({key: choice[key] for key in swept})
    return list(found.values()), seeds


def compose_run(words: list[str], config_dir: str | None) -> DictConfig:
    """The configuration of one run; inside a job of Hydra's too, which is left as it was."""
    schema.register()
    take_own_classes(words)
    before = Singleton.get_state()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("odenets.configs", version_base="1.3"):
            return compose("train", [*_search(config_dir), *words])
    finally:
        Singleton.set_state(before)


def _search(config_dir: str | None) -> list[str]:
    return [f"hydra.searchpath=['file://{Path(config_dir).resolve()}']"] if config_dir else []


def _axes(words: list[str]) -> dict[str, list[str]]:
    """`{key: values as written}`, in the order typed, by Hydra's own grammar."""
    try:
        parsed = OverridesParser.create().parse_overrides(words)
    except CONFIG_ERRORS as error:
        raise UserError(explain(error)) from error
    axes = {}
    for override in parsed:
        key = override.get_key_element()
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                raise UserError(f"{override.input_line}: expected a list of values or range(...), such as 1,2,4")
            axes[key] = list(override.sweep_string_iterator())
        else:
            axes[key] = [override.get_value_element_as_str()]
    return axes


def _seeds(values: list[str]) -> list[int]:
    if not all(re.fullmatch(r"\d+", value) for value in values):
        raise UserError(f"seed={','.join(values)}: expected whole numbers, such as seed=0,1,2")
    return list(dict.fromkeys(map(int, values)))


def _configuration(choice: dict[str, str], swept: Sequence[str], config_dir: str | None) -> Configuration:
    try:
        words = [f"{key}={value}" for key, value in choice.items()]
        cfg = compose("train", [*_search(config_dir), *words])
        # A scheme for a block without a linear part, a solver for a stack: the same run whatever the value.
        idle = set(unused_groups(cfg, list(swept)))
        without = [key for key in swept if re.split(r"[.=@]", key)[0] in idle]
        if without:
            words = [f"{key}={value}" for key, value in choice.items() if key not in without]
            cfg = compose("train", [*_search(config_dir), *words])
        schema.refuse_extras(cfg)
        schema.check_values(cfg)
    except CONFIG_ERRORS as error:
        raise UserError(explain(error, config_dir)) from error
    if not cfg.name:
        raise UserError("choose an experiment: odenets compare experiment=<name> and the keys to compare")
    one = Configuration({key: "" if key in without else choice[key] for key in swept}, words, cfg)
    try:
        with group_names(cfg):
            refuse_unused_scheme(cfg)
            config = plain(cfg)
            check_targets(config, config["run"]["allow_targets"])
    except OmegaConfBaseException as error:
        one.refused = explain(error, config_dir)
    except UserError as error:
        one.refused = str(error)
    return one
