"""Classes of the person's own: `field=my_module.MyField` on the command line, and what a person has said to trust.

A dotted name typed as a group's value stands for an option with that `_target_`. Whoever types it trusts it; a name in
a file, in a run's folder above all, is never called for that reason.
"""

import contextlib
import inspect
import re
import sys
from collections.abc import Sequence
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore

from odenets.configs.catalog import ORDER
from odenets.errors import UserError

GROUPS = ("field", "block", "flow", "branch", "data", "task", "model", "solver", "gradient", "optimizer")
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
TRUST = "run.allow_targets"


def take_own_classes(words: Sequence[str]) -> list[str]:
    """Make options of the dotted names among `words` and return the words with their packages allowed.

    UserError for a name that cannot be loaded, and for null, which no group takes.
    """
    packages: list[str] = []
    for word in words:
        key, _, value = word.partition("=")
        if key in ORDER and "null" in value.split(","):
            raise UserError(f"{word}: leave {key}= out for the default; see odenets list for what there is to choose")
        for name in value.split(",") if key in GROUPS else ():
            if DOTTED.fullmatch(name) and not name.startswith("odenets."):
                node = {"_target_": name} | _defaults(key, name)
                ConfigStore.instance().store(group=key, name=name, node=node, provider="command line")
                packages.append(name.split(".")[0])
    if not packages:
        return list(words)
    allowed = list(dict.fromkeys([*trusted(words), *packages]))
    return [*(word for word in words if not word.startswith(f"{TRUST}=")), f"{TRUST}=[{','.join(allowed)}]"]


def trusted(words: Sequence[str]) -> list[str]:
    """The packages of `run.allow_targets=[...]` among words; UserError for anything but a list of names."""
    found: Any = []
    for word in words:
        if word.startswith(f"{TRUST}="):
            with contextlib.suppress(yaml.YAMLError):
                found = yaml.safe_load(word.partition("=")[2])
            if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
                raise UserError(f"'{word}': expected a list of packages, such as {TRUST}=[my_module]")
    return found


def packages_of(words: Sequence[str]) -> set[str]:
    """The packages that words name as classes or allow; nothing is loaded."""
    values = [value for key, _, value in (word.partition("=") for word in words) if key in GROUPS]
    names = [name for value in values for name in value.split(",") if DOTTED.fullmatch(name)]
    return {name.split(".")[0] for name in names} - {"odenets"} | set(trusted(words))


def look_in_this_folder() -> None:
    """Let modules of the current folder be found, after everything else."""
    if "" not in sys.path and "." not in sys.path:
        sys.path.append("")


def _defaults(key: str, name: str) -> dict[str, Any]:
    """The target's own defaults, so that `field.mu=2` is a key like any other."""
    from hydra.utils import get_object

    look_in_this_folder()
    try:
        target = get_object(name)
        parameters = inspect.signature(target).parameters.values()
    except Exception as error:  # whatever importing the person's module raises
        last = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UserError(
            f"{key}={name}: cannot load it from this folder or Python's path: {last[-1].strip()}"
        ) from error
    plain = (bool, int, float, str, type(None))
    return {p.name: p.default for p in parameters if p.default is not p.empty and isinstance(p.default, plain)}
