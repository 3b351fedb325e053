"""What a comparison was asked for: its own options, the words of the grid, Hydra's words."""

import hashlib
import math
import os
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from odenets.configs.catalog import ROOT
from odenets.configs.own import take_own_classes
from odenets.errors import UserError, did_you_mean

Terms = Literal["steps", "parameters", "time"]
FLAGS = ("--config-dir", "-cd")


@dataclass
class Options:
    """The keys of `compare.<key>=...`; a file `compare=<name>` sets them too, beside its `grid`."""

    dir: str | None = None  # where everything goes; null: runs/compare/<experiment>-<digest of the grid>
    terms: Terms = "steps"  # what is equal between configurations: optimizer steps, parameters, or training time
    parameters: int | None = None  # with terms=parameters: the number to match; null: the first configuration's
    target: float | None = None  # quality that "steps to target" waits for; null: one that all configurations reach
    retry: bool = False  # run failed runs again
    measure: bool = True  # time, memory and gradient error of every run
    diagnose: bool = True  # spectra, gains, step halving of one run per configuration


@dataclass
class Request:
    """A comparison as typed.

    Attributes:
        options: its own options.
        words: `key=value` of the grid and of every run, those of a file first.
        hydra: words for Hydra alone, such as `hydra/launcher=joblib`.
        config_dir: the person's own configs.
    """

    options: Options
    words: list[str] = field(default_factory=list)
    hydra: list[str] = field(default_factory=list)
    config_dir: str | None = None

    @property
    def folder(self) -> Path:
        """Where the comparison lives: the same for the same words, so that typing them again goes on with it."""
        if self.options.dir is not None:
            return Path(self.options.dir)
        chosen = dict(word.split("=", 1) for word in self.words)
        terms = [self.options.terms, str(self.options.parameters)]
        digest = hashlib.sha256("\n".join([*sorted(self.words), *terms]).encode()).hexdigest()[:8]
        return Path(chosen.get("run.root", "runs")) / "compare" / f"{chosen.get('experiment', 'compare')}-{digest}"


def read_request(arguments: list[str]) -> Request:
    """Sort the words of a command line; UserError for what cannot be understood."""
    words, hydra, own, config_dir = [], [], {}, None
    rest = iter(arguments)
    for word in rest:
        key, equals, value = word.partition("=")
        if key in FLAGS:
            config_dir = value if equals else next(rest, "")
        elif word.startswith("-"):
            raise UserError(f"{word}: no such option of compare; {did_you_mean(word, FLAGS)} (see odenets --help)")
        elif not equals:
            raise UserError(f"'{word}': expected key=value, for example block=residual,delta or seed=0,1,2")
        elif key == "compare" or key.startswith("compare."):
            own[key] = value
        elif key.startswith("hydra"):
            hydra.append(word)
        else:
            words.append(word)
    if config_dir is not None and not os.path.isdir(config_dir):
        raise UserError(f"--config-dir {config_dir}: no such folder")
    from_file, grid = _read_file(own.pop("compare", None), config_dir)
    typed = {key.removeprefix("compare."): _value(key, value) for key, value in own.items()}
    return Request(_options(from_file | typed), _merge(grid, take_own_classes(words)), hydra, config_dir)


def _read_file(name: str | None, config_dir: str | None) -> tuple[dict[str, Any], list[str]]:
    if name is None:
        return {}, []
    folders = [Path(folder) / "compare" for folder in (config_dir, ROOT) if folder is not None]
    found = [path for folder in folders if (path := folder / f"{name}.yaml").is_file()]
    if not found:
        known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
        raise UserError(f"compare={name}: no such comparison; {did_you_mean(name, known)}")
    try:
        content = yaml.safe_load(found[0].read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{found[0]}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not isinstance(content.get("grid", {}), dict):
        raise UserError(f"{found[0]}: expected keys of compare.<key> and `grid:` with key: values")
    return {k: _number(v) for k, v in content.items() if k != "grid"}, [
        f"{key}={','.join(map(_word, value)) if isinstance(value, list) else _word(value)}"
        for key, value in content.get("grid", {}).items()
    ]


def _value(key: str, text: str) -> Any:
    """A typed value as YAML reads it; of folders the text itself, and 1e-3 is a number too."""
    if key == "compare.dir":
        return text or None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{key}={text}: the value cannot be read") from error
    return _number(value)


def _number(value: Any) -> Any:
    """YAML 1.1 takes 1e-3 for a word."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) else value


def _word(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _merge(grid: list[str], typed: list[str]) -> list[str]:
    """The words of a file with typed ones in place of those of the same key."""
    merged = {word.partition("=")[0]: word for word in [*grid, *typed]}
    return list(merged.values())


def _options(values: dict[str, Any]) -> Options:
    hints = typing.get_type_hints(Options)
    for key, value in values.items():
        if key not in hints:
            raise UserError(f"compare.{key}: no such key; {did_you_mean(key, hints)}")
        if isinstance(value, int) and not isinstance(value, bool) and hints[key] == float | None:
            values[key] = value = float(value)
        options = typing.get_args(hints[key]) or (hints[key],)
        if not any(type(value) is option if isinstance(option, type) else value == option for option in options):
            expected = " or ".join("null" if o is type(None) else getattr(o, "__name__", str(o)) for o in options)
            raise UserError(f"compare.{key}: expected {expected}, got {value!r}")
    given = Options(**values)
    if given.target is not None and not math.isfinite(given.target):
        raise UserError(f"compare.target={given.target}: expected a finite number")
    if given.parameters is not None and (given.terms != "parameters" or given.parameters < 1):
        raise UserError(f"compare.parameters={given.parameters}: expected a number >= 1 together with terms=parameters")
    return given
