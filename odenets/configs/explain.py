"""One line out of Hydra's and OmegaConf's errors: what was expected, what came, the near match."""

import re
from collections.abc import Iterator

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException, ValidationError

from odenets.configs.catalog import groups
from odenets.errors import did_you_mean

CONFIG_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)


def explain(error: BaseException, config_dir: str | None = None) -> str:
    """The error as one line for a person."""
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, MissingConfigException) and link.missing_cfg_file:
            return _missing_config(link, config_dir)
        if isinstance(link, OverrideParseException):
            return _unreadable(link.override)
        if isinstance(link, yaml.YAMLError):
            return f"a config file is not valid YAML: {_one_line(link)}"
    for link in chain:
        if isinstance(link, InterpolationKeyError):
            return f"{link.full_key}: refers to a key that this choice of groups does not have: {_one_line(link)}"
        if isinstance(link, ValidationError):
            return f"{link.full_key}: {_first_line(link)}"
        if isinstance(link, OmegaConfBaseException) and link.full_key:
            return _unknown_key(link, config_dir)
    return _one_line(chain[0], drop_advice=True)


ADVICE = (  # Hydra recommends `+key=value`, which the schema refuses, and `++key=value`, which nobody needs here
    r"To append to your (config|default list) use \S+",
    r"Or add a second \+ .*",
)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _missing_config(error: MissingConfigException, config_dir: str | None) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    if not group:
        return f"{name}: no such config group; {did_you_mean(name, groups(config_dir))}"
    options = list(error.options or groups(config_dir).get(group, []))
    hint = did_you_mean(name, options)
    listed = f" (options: {', '.join(sorted(options))})" if "did you mean" in hint else f"; {hint}"
    return f"{group}={name}: no such option{'; ' + hint if 'did you mean' in hint else ''}{listed}"


def _unreadable(override: str) -> str:
    if "=" not in override:
        return f"'{override}': expected key=value, for example experiment=digits or trainer.epochs=5"
    key, _, value = override.partition("=")
    return f"'{override}': the value cannot be read; quote special characters: \"{key}='{value}'\""


def _unknown_key(error: OmegaConfBaseException, config_dir: str | None) -> str:
    full = str(error.full_key)
    parent = error.parent_node
    key = str(error.key) if error.key is not None else full.rpartition(".")[2]
    known = {str(name) for name in parent} if isinstance(parent, DictConfig) else set()
    if "." not in full:
        known |= set(groups(config_dir))
    known -= {"_target_", "_partial_", "hydra"}
    place = full.rpartition(".")[0]
    listed = f" (keys of {place}: {', '.join(sorted(known))})" if place and known else ""
    return (
        f"{full}: no such key; {did_you_mean(key, known)}{listed if 'did you mean' in did_you_mean(key, known) else ''}"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _one_line(error: BaseException, drop_advice: bool = False) -> str:
    text = str(error) or type(error).__name__
    text = " ".join(text.split())
    for pattern in ADVICE if drop_advice else ():
        text = re.sub(pattern, "", text)
    return text.strip().replace("Either remove + prefix", "Remove the + prefix")
