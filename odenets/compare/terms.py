"""Fair terms: what is made equal between configurations, and by how much it is missed.

- steps: nothing is changed; every run takes the optimizer steps its configuration says.
- parameters: the hidden width of the branches is set so that the number of parameters comes closest to a reference.
- time: the epochs are set so that every run trains about as long as the first configuration does.
"""

import copy
import statistics
import time
from typing import Any

from omegaconf import DictConfig, OmegaConf

from odenets.compare.grid import Configuration
from odenets.compare.options import Options
from odenets.configs.build import group_names, instantiate, plain, unused_groups
from odenets.errors import UserError, one_line
from odenets.solvers import SolveError
from odenets.train.build import build, make_fabric
from odenets.train.loop import epoch_order

WIDEST = 1 << 16


def apply(options: Options, configurations: list[Configuration]) -> dict[str, Any]:
    """Set `changed` of configurations that can run and `refused` of those that cannot; returns what was made equal."""
    for one in configurations:
        if not one.refused:
            one.refused = _refusal(one)
    able = [one for one in configurations if not one.refused]
    if not able:
        raise UserError(f"no configuration of the grid can run: {configurations[0].refused}")
    if options.terms == "parameters":
        return _equal_parameters(able, options.parameters)
    if options.terms == "time":
        return _equal_time(able)
    if not any(one.cfg.trainer.epochs for one in able):
        return {"kind": "steps", "text": "nothing is trained, every configuration solves the same problem"}
    return {"kind": "steps", "text": "equal optimizer steps; parameters and time as they come"}


def _refusal(one: Configuration) -> str:
    try:
        parameters(one.cfg)
    except UserError as error:
        return str(error)
    return ""


def parameters(cfg: DictConfig) -> int:
    """How many parameters the task of a configuration has."""
    config = plain(cfg)
    with group_names(cfg):
        task = instantiate(config["task"], "task", config["run"]["allow_targets"])
    return sum(p.numel() for p in task.parameters())


def _equal_parameters(able: list[Configuration], wanted: int | None) -> dict[str, Any]:
    """Match the count of the first configuration, or `wanted`, by the hidden width of every branch in use."""
    counts: dict[str, int] = {}
    if wanted is None:
        wanted = counts[able[0].name] = parameters(able[0].cfg)
    for one in able[len(counts) :]:
        keys = width_keys(one.cfg)
        if keys:
            width, counts[one.name] = match_width(one.cfg, keys, wanted)
            one.changed = dict.fromkeys(keys, width)
        else:
            counts[one.name] = parameters(one.cfg)
    worst = max(abs(count / wanted - 1) for count in counts.values())
    return {
        "kind": "parameters",
        "text": f"equal parameters: {wanted:,} by the branches' hidden width, missed by at most {100 * worst:.2g} %",
        "reference": wanted,
        "counts": counts,
    }


def width_keys(cfg: DictConfig) -> list[str]:
    """The keys of the hidden widths that a configuration uses: those of its branches or field, else of its block."""
    for groups in (["branch", "branch2", "field"], ["block"]):
        idle = unused_groups(cfg, groups)
        keys = [f"{g}.hidden" for g in groups if g not in idle and OmegaConf.is_dict(cfg[g]) and "hidden" in cfg[g]]
        if keys:
            return keys
    return []


def match_width(cfg: DictConfig, keys: list[str], wanted: int) -> tuple[int, int]:
    """The width (the same for all `keys`) whose parameter count is nearest to `wanted`, and that count."""
    counts: dict[int, int] = {}

    def count(width: int) -> int:
        if width not in counts:
            trial = copy.deepcopy(cfg)
            for key in keys:
                OmegaConf.update(trial, key, width)
            counts[width] = parameters(trial)
        return counts[width]

    high = 1
    while count(high) < wanted and high < WIDEST:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < wanted else (low, middle)
    best = min((width for width in (low, high) if width > 0), key=lambda width: abs(count(width) - wanted))
    return best, count(best)


def _equal_time(able: list[Configuration]) -> dict[str, Any]:
    """Give every configuration the epochs that fit into the first one's training time, by a measured time per step."""
    seconds = {}
    for one in able:
        try:
            seconds[one.name] = seconds_per_epoch(one.cfg)
        except (UserError, ValueError, SolveError) as error:  # it would not train either
            one.refused = f"its time could not be measured: {one_line(error)}"
    able = [one for one in able if not one.refused]
    if not able:
        raise UserError("terms=time: no configuration of the grid takes a training step")
    first = able[0]
    budget = seconds[first.name] * first.cfg.trainer.epochs
    for one in able:
        epochs = max(1, round(budget / seconds[one.name]))
        if epochs != one.cfg.trainer.epochs:
            one.changed = {"trainer.epochs": epochs}
    return {
        "kind": "time",
        "text": f"equal training time: about {budget:.3g} s a run, by the number of epochs",
        "budget_seconds": budget,
        "seconds_per_epoch": seconds,
    }


def seconds_per_epoch(cfg: DictConfig, warmup: int = 2, repeats: int = 7) -> float:
    """Time of an epoch from the median time of a training step."""
    config = plain(cfg)
    with group_names(cfg):
        task, parts = build(make_fabric(config["trainer"]), config)
    times = []
    order = epoch_order(parts, 0)
    for i in range(warmup + repeats):
        start = time.perf_counter()
        parts.optimizer.zero_grad(set_to_none=True)
        parts.fabric.backward(parts.module(*task.select(order[i % len(order)]), progress=1.0))
        parts.optimizer.step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[warmup:]) * len(order)
