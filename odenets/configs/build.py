"""Turn configuration into objects: the one place where a `_target_` is called.

A node `{_target_: package.Class, key: value}` becomes `Class(key=value)`, children first. With `_partial_: true` it
becomes a factory that builds the whole node, children included, afresh on every call: N blocks made by one factory
share no weights. (Hydra's own `instantiate` would build the children once and share them.)
"""

import contextlib
import functools
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from odenets.configs import sublayers  # noqa: F401  (its resolvers, for saved configurations too)
from odenets.configs.own import look_in_this_folder
from odenets.errors import UserError, did_you_mean, one_line

ALLOWED = ("odenets", "torch.nn", "torch.optim")
SPECIAL = {"_target_", "_partial_"}


def instantiate(node: Any, path: str, allow: Sequence[str] = (), **extra: Any) -> Any:
    """Build the object described by `node`, found at `path` of the configuration.

    `allow` names packages outside odenets, torch.nn and torch.optim whose targets may be called; `extra` are keyword
    arguments the code adds, in place of the node's own of that name. Raises UserError, naming `path`, for a target that
    is refused or missing, for unknown, missing or mistyped keys, and for values the target refuses with a ValueError.
    """
    if isinstance(node, (list, tuple)):
        return [instantiate(child, f"{path}.{i}", allow) for i, child in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        return {key: instantiate(child, f"{path}.{key}", allow) for key, child in node.items()}
    if node.get("_partial_", False):  # the factory's caller may replace children: `factory(branch=...)`
        whole = {key: child for key, child in node.items() if key != "_partial_"}
        return functools.partial(instantiate, whole, path, allow, **extra)
    target = resolve(node["_target_"], path, allow)
    _check_extra(target, node, path, extra)
    arguments = {
        key: instantiate(child, f"{path}.{key}", allow)
        for key, child in node.items()
        if key not in SPECIAL and key not in extra
    }
    try:
        return target(**arguments, **extra)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {node['_target_']} refused its arguments: {one_line(error)}") from error


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain Python values with interpolations resolved."""
    container = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    return typing.cast(dict[str, Any], container)


def check_targets(config: Mapping[str, Any], allow: Sequence[str] = ()) -> None:
    """Check every `_target_` node of a plain configuration against the signature of its target, building nothing."""
    for path, node in _targets(config, ""):
        target = resolve(node["_target_"], path, allow)
        _check_arguments(target, node, path)


def unused_groups(cfg: DictConfig, typed: Sequence[str]) -> list[str]:
    """Groups that the person typed overrides for and that the chosen task does not refer to, however indirectly."""
    used: set[str] = set()
    queue = ["task"]
    while queue:
        group = queue.pop()
        used.add(group)
        text = str(OmegaConf.to_container(cfg)[group])  # type: ignore[index, call-overload]
        found = re.findall(r"\$\{(?:oc\.select:)?(\w+)[.}]", text)
        found += ["branch", "branch2"] if "${sublayers:" in text else []
        queue += [name for name in found if name in cfg and name not in used]
    named = {re.split(r"[.=@]", word.lstrip("+~"))[0] for word in typed}
    return sorted(
        named & {"model", "field", "block", "flow", "branch", "branch2", "solver", "gradient", "scheme"} - used
    )


def refuse_unused_scheme(cfg: DictConfig) -> None:
    """Raise UserError for a scheme that the block cannot take: the run would not be what was asked for."""
    scheme = OmegaConf.select(cfg, "scheme.name")
    if scheme not in (None, "forward_euler") and unused_groups(cfg, ["scheme"]):
        block = OmegaConf.select(cfg, "block._target_")
        raise UserError(
            f"scheme={scheme}: {block} takes no scheme: without a linear part every frozen step is forward Euler; "
            "choose a block with one, such as block=delta, or leave scheme= out"
        )


@contextlib.contextmanager
def group_names(cfg: DictConfig) -> Iterator[None]:
    """Inside, errors name a place as it is typed: `model.N` for what `task.network.flow` took in by `${model}`."""
    try:
        yield
    except UserError as error:
        raise UserError(_as_typed(str(error), dict(_references(OmegaConf.to_container(cfg), "")))) from error.__cause__


def _references(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        for key, child in node.items():
            yield from _references(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, str) and (whole := re.fullmatch(r"\$\{([\w.]+)\}", node)):
        yield path, whole[1]


def _as_typed(message: str, references: Mapping[str, str]) -> str:
    for path, source in references.items():
        if re.match(rf"{re.escape(path)}[.:]", message):
            return _as_typed(source + message[len(path) :], references)
    return message


def resolve(name: Any, path: str, allow: Sequence[str] = ()) -> Any:
    """The object called `name`, if it is defined in an allowed package; UserError otherwise."""
    prefixes = (*ALLOWED, *allow)
    if not isinstance(name, str) or not _inside(name, prefixes):
        raise UserError(
            f"{path}._target_: '{name}' is outside {', '.join(prefixes)}; "
            f"if you trust it, add run.allow_targets=[{str(name).split('.')[0]}]"
        )
    from hydra.utils import get_object

    if not _inside(name, ALLOWED):
        look_in_this_folder()
    try:
        target = get_object(name)
    except (ImportError, ValueError) as error:
        raise UserError(f"{path}._target_: cannot load '{name}': {_last_line(error)}") from error
    # `odenets.cli.os.system` starts with odenets and is not ours: look at where the object was defined.
    home = getattr(target, "__module__", None) or ""
    if not callable(target) or not _inside(home, prefixes):
        raise UserError(f"{path}._target_: '{name}' is not a class or function of {', '.join(prefixes)}")
    return target


def _inside(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def _targets(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node
        for key, child in node.items():
            yield from _targets(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from _targets(child, f"{path}.{i}")


def _check_arguments(target: Any, node: Mapping[str, Any], path: str) -> None:
    parameters = inspect.signature(target).parameters
    names = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    hints = _hints(target)
    for key, value in node.items():
        if key in SPECIAL:
            continue
        if key not in names and not takes_any:
            raise UserError(f"{path}.{key}: no such key of {node['_target_']}; {did_you_mean(str(key), names)}")
        if key in hints and not _fits(value, hints[key]):
            raise UserError(f"{path}.{key}: expected {_describe(hints[key])}, got {value!r}")
        if isinstance(value, str) and key in parameters and _is_number(parameters[key].default):
            raise UserError(f"{path}.{key}: expected a number, got {value!r}")
    if not node.get("_partial_", False):
        missing = [n for n in names if parameters[n].default is inspect.Parameter.empty and n not in node]
        if missing:
            raise UserError(f"{path}: {node['_target_']} needs {', '.join(missing)}")


def _check_extra(target: Any, node: Mapping[str, Any], path: str, extra: Mapping[str, Any]) -> None:
    parameters = inspect.signature(target).parameters
    if (
        "branch" in extra
        and "branch" not in parameters
        and not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    ):
        raise UserError(
            f"{path}: {node['_target_']} takes no branch, so it cannot carry the attention or MLP that this model puts "
            "into its blocks; choose another block, such as block=residual"
        )


def _hints(target: Any) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except Exception:  # a forward reference that only a type checker can resolve: leave types to the target
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value agrees with a simple annotation; annotations that are not simple accept everything."""
    if isinstance(value, (Mapping, list, tuple)):
        return hint not in (int, float, bool, str)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if hint is float:
        return _is_number(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint is type(None):
        return value is None
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in typing.get_args(hint))
    if hint is type(None):
        return "null"
    return getattr(hint, "__name__", str(hint))


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
