"""Every missing run of a plan through Hydra: its basic sweeper goes over the run folders, any launcher runs them."""

import functools

from hydra.core.plugins import Plugins

from odenets.compare.job import CompareTask
from odenets.compare.plan import Plan, PlannedRun
from odenets.compare.show import tell
from odenets.configs.compose import run_hydra
from odenets.errors import UserError

EXTRAS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit"}


def launch(plan: Plan, runs: list[PlannedRun], hydra: list[str], config_dir: str | None) -> None:
    """Bring `runs` to their ends. Raises Interrupted, and UserError for a launcher that is not there."""
    _check_launcher(hydra)
    folders = ",".join(f"'{plan.place(run).path}'" for run in runs)
    folder = ["--config-dir", config_dir] if config_dir else []
    task = functools.partial(CompareTask, plan=plan, tell=tell)
    run_hydra(["-m", f"run.dir={folders}", f"hydra.sweep.dir='{plan.folder}/hydra'", *hydra, *folder], task)


def _check_launcher(hydra: list[str]) -> None:
    for word in hydra:
        key, _, value = word.partition("=")
        if key == "hydra/launcher" and value in EXTRAS:
            package = f"hydra_plugins.hydra_{EXTRAS[value]}_launcher"
            if not any(plugin.__module__.startswith(package) for plugin in Plugins.instance().discover()):
                raise UserError(f"{word}: this launcher is not installed; pip install 'odenets[{EXTRAS[value]}]'")
