"""The tasks of the command line: train a configuration, evaluate a finished run."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from omegaconf import DictConfig, OmegaConf

from odenets.configs.build import check_targets, group_names, plain, refuse_unused_scheme, unused_groups
from odenets.configs.own import TRUST
from odenets.errors import Interrupted, TrainingStopped, UserError
from odenets.kernels.backend import chosen
from odenets.report import curves, table
from odenets.train import checkpoint, export, runfolder
from odenets.train.build import build, load_run, make_fabric, rehearse
from odenets.train.loop import Hooks, Parts, Progress, fit, measure
from odenets.train.metrics import MetricsLog, read_rows
from odenets.train.progress import Bar
from odenets.train.runfolder import RunFolder
from odenets.train.snapshot import command_line, snapshot


def train(cfg: DictConfig, typed: list[str], part: str | None = None) -> float:
    """Train the composed configuration `cfg`; `typed` are the overrides the person gave.

    `part` is the run's place in a larger whole: the progress bar shows it, and no table is printed.

    Returns the first headline measure. Raises UserError before any work, TrainingStopped, Interrupted.
    """
    if cfg.run.resume:
        cfg = _resumed_config(cfg, typed)
    config = plain(cfg)
    with group_names(cfg):
        refuse_unused_scheme(cfg)
        check_targets(config, config["run"]["allow_targets"])
    path = _choose_folder(config)  # with its checks, before anything slow
    fabric = make_fabric(config["trainer"])
    fabric.launch()
    folder = RunFolder(Path(str(fabric.broadcast(path))))
    chosen.clear()  # what ran in an earlier run of this process
    with group_names(cfg):
        task, parts = build(fabric, config)
    rehearse(parts)
    if fabric.is_global_zero and part is None:
        table.note_unused(unused_groups(cfg, typed))
    progress = Progress()
    if config["run"]["resume"]:
        progress = _restore(parts, checkpoint.load(folder.checkpoint, task))
    elif fabric.is_global_zero:
        runfolder.create(folder.path)
        OmegaConf.save(cfg, folder.config)
        folder.write_json(folder.versions, snapshot(command_line()))
    _run(parts, folder, config, progress, part or config["name"])
    return _finish(parts, folder, config, progress, quiet=part is not None)


def evaluate(run: str, allow: Sequence[str] = ()) -> None:
    """Load a run's configuration and exported weights, measure again, print the table; `allow` as in `load_run`."""
    config, task, parts = load_run(run, allow)
    table.show(f"{config['name']}, evaluated again", measure(parts) | task.facts(), run)


def _resumed_config(cfg: DictConfig, typed: list[str]) -> DictConfig:
    """The configuration of the run to continue; UserError if the person asks for another one."""
    folder = RunFolder(Path(cfg.run.dir))
    saved = folder.read_config()
    if any(not word.startswith("run.") for word in typed):
        old, new = plain(saved), plain(cfg)
        old.pop("run")
        new.pop("run")
        changed = runfolder.differences(old, new)
        if changed:
            more = f" and {len(changed) - 2} more" if len(changed) > 2 else ""
            raise UserError(
                f"{folder.path}: cannot resume with a changed configuration: {', '.join(changed[:2])}{more}; "
                f"odenets train run.dir={folder.path} run.resume=true goes on with the saved one"
            )
    OmegaConf.update(saved, "run.resume", True)
    OmegaConf.update(saved, "run.allow_targets", list(cfg.run.allow_targets))  # what is typed counts, not the folder's
    OmegaConf.update(saved, "run.dir", str(folder.path))
    runfolder.check_writable(folder.path)
    return saved


def _choose_folder(config: dict[str, Any]) -> Path | None:
    """The run's folder, checked but not made; None on the other processes, which hear of it from the first."""
    if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) != "0":
        return None
    run = config["run"]
    path = runfolder.choose(run["dir"], run["root"], config["name"])
    if not run["resume"]:
        runfolder.check_new(path)
    return path


def _restore(parts: Parts, state: dict[str, Any]) -> Progress:
    parts.task.load_state_dict(state["model"])
    parts.optimizer.load_state_dict(state["optimizer"])
    parts.schedule.load_state_dict(state["schedule"])
    parts.averaged.load_state_dict(state["averaged"])
    states = state["random"]
    checkpoint.set_random_state(states[parts.fabric.global_rank % len(states)])
    return Progress(**state["progress"])


def _save(parts: Parts, folder: RunFolder, progress: Progress) -> None:
    states = _all_random_states(parts.fabric)
    if parts.fabric.is_global_zero:
        checkpoint.save(
            folder.checkpoint,
            {
                "model": parts.task.state_dict(),
                "optimizer": parts.optimizer.state_dict(),
                "schedule": parts.schedule.state_dict(),
                "averaged": parts.averaged.state_dict(),
                "random": states,
                "progress": dict(vars(progress)),
            },
        )


def _all_random_states(fabric: Fabric) -> list[dict[str, Any]]:
    own = checkpoint.random_state()
    if fabric.world_size == 1:
        return [own]
    states: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(states, own)
    return states


def _run(parts: Parts, folder: RunFolder, config: dict[str, Any], progress: Progress, shown: str) -> None:
    main, fresh = parts.fabric.is_global_zero, not config["run"]["resume"]
    board = folder.path / "tensorboard" if config["run"]["tensorboard"] else None
    log = MetricsLog(folder.metrics, None if fresh else progress.step, board) if main else None
    trainer = config["trainer"]
    allowed = ",".join(config["run"]["allow_targets"])
    resume = f"odenets train run.dir={folder.path} run.resume=true" + (f" {TRUST}=[{allowed}]" if allowed else "")
    if fresh:
        _save(parts, folder, progress)  # from here on the run can be resumed
    with Bar(shown, trainer["epochs"], 0, trainer["progress"] and main) as bar:
        hooks = Hooks(log.append if log else lambda row: None, lambda: _save(parts, folder, progress), bar.update)
        try:
            fit(parts, progress, hooks)
        except Interrupted as stop:
            raise Interrupted(f"{stop}; go on with: {resume}") from None
        except TrainingStopped as stop:
            raise TrainingStopped(
                f"{stop}; the last good checkpoint is kept in {folder.path}; try a smaller optimizer.lr or "
                "trainer.clip_norm, or smaller solver steps"
            ) from None
        finally:
            if log:
                log.close()


def _finish(parts: Parts, folder: RunFolder, config: dict[str, Any], progress: Progress, quiet: bool) -> float:
    measures = measure(parts)
    if parts.fabric.is_global_zero:
        with parts.averaged.applied():
            export.save(folder.weights, parts.task)
            facts = parts.task.facts()
            files = parts.task.write(folder.path)
            plots = _plots(parts, folder, config["name"]) if config["run"]["plots"] else []
        result = {
            "name": config["name"],
            "measures": measures,
            "facts": facts,
            "parameters": sum(p.numel() for p in parts.task.parameters()),
            "steps": progress.step,
            "epochs": config["trainer"]["epochs"],
            "seconds": round(progress.seconds, 2),
            "spikes": progress.spikes,
            "kernels": dict(chosen),  # the backend of every operator that ran
            "plots": [path.name for path in plots],
            "files": [path.name for path in files],
        }
        folder.write_json(folder.result, result)
        if not quiet:
            rows = measures | facts | {key: result[key] for key in ("parameters", "epochs", "seconds")}
            table.show(config["name"], rows, str(folder.path), [path.name for path in [*plots, *files]])
    return measures[parts.task.headline[0]]


def _plots(parts: Parts, folder: RunFolder, name: str) -> list[Path]:
    trained = [curves.plot(folder.path / "curves.png", folder.metrics, name)] if read_rows(folder.metrics) else []
    return [*trained, *parts.task.plot(folder.path)]
