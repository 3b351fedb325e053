"""Diagnose a finished run."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from odenets.diagnostics import Diagnosis, diagnose, table
from odenets.errors import UserError, one_line
from odenets.train.build import load_run
from odenets.train.language import LanguageModelling
from odenets.train.loop import epoch_order
from odenets.train.runfolder import RunFolder

WINDOWS = 16
"""Held-out windows that a language model is measured on, once for each other way of taking its steps."""


def diagnose_run(run: str | Path, samples: int = 4, allow: Sequence[str] = ()) -> Diagnosis:
    """Load a finished run and look at the flow in its model along a few training samples; `allow` as in `load_run`.

    Raises:
        UserError: no finished run, or one whose model holds no flow.
    """
    _, task, parts = load_run(run, allow)
    if isinstance(task, LanguageModelling):
        task.eval_windows = min(task.eval_windows, WINDOWS)
    batch = task.select(epoch_order(parts, 0)[0])
    try:
        return diagnose(task, (*batch, 1.0), evaluate=task.evaluate, measure=task.headline[0], samples=samples)
    except ValueError as error:
        raise UserError(f"{run}: {one_line(error)}") from error


def main(run: str, samples: int = 4, allow: Sequence[str] = ()) -> None:
    """Diagnose a run, print the table, and write diagnostics.json into its folder."""
    found = diagnose_run(run, samples, allow)
    folder = RunFolder(Path(run))
    path = folder.path / "diagnostics.json"
    folder.write_json(path, found.to_dict())
    console = Console()
    console.print(table(found, f"{run}: {found.flow}, along {found.samples} samples"), highlight=False)
    console.print(f"written  {path}", soft_wrap=True, highlight=False, markup=False)
