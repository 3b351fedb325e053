"""The plan of a comparison: its runs and what was made equal, kept on disk so that starting again changes nothing."""

import json
import re
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from odenets.compare.grid import Configuration
from odenets.compare.options import Request
from odenets.errors import UserError
from odenets.train.checkpoint import write_atomically
from odenets.train.runfolder import RunFolder

FORMAT = 1
FILE = "comparison.json"


@dataclass
class PlannedRun:
    """One run: its folder's name, the number of its configuration, its seed, and all its overrides."""

    name: str
    configuration: int
    seed: int
    words: list[str]


@dataclass
class Plan:
    """All runs of a comparison, in `folder`/runs/<name>."""

    folder: Path
    title: str
    command: list[str]
    asked: dict[str, Any]  # the words of the grid and the terms: the same words are the same plan
    terms: dict[str, Any]  # what is equal, and how it was made so
    target: float | None
    configurations: list[dict[str, Any]]
    runs: list[PlannedRun]

    def place(self, run: PlannedRun) -> RunFolder:
        """The folder of a run."""
        return RunFolder(self.folder / "runs" / run.name)

    def finished(self, run: PlannedRun) -> bool:
        """Whether the run has its result."""
        return self.place(run).result.is_file()

    def failed(self, run: PlannedRun) -> bool:
        """Whether the run ended without a result, for good."""
        return failure_file(self.place(run)).is_file()

    def missing(self) -> list[PlannedRun]:
        """Runs with neither result nor failure, in order."""
        return [run for run in self.runs if not self.finished(run) and not self.failed(run)]

    def write(self) -> None:
        """Write comparison.json, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT} | {key: value for key, value in asdict(self).items() if key != "folder"}
        text = json.dumps(content, indent=2) + "\n"
        write_atomically(
            self.folder / "comparison.json", lambda temporary: temporary.write_text(text, encoding="utf-8")
        )


def failure_file(place: RunFolder) -> Path:
    """Where a run that ended without a result says why."""
    return place.path / "failure.json"


def attempts_file(place: RunFolder) -> Path:
    """How often a run was started without an epoch more: outside its folder, which may be made anew."""
    return place.path.with_name(f".{place.path.name}.attempts.json")


def read_plan(folder: Path) -> Plan | None:
    """The plan of an earlier start in `folder`; None if there is none; UserError for another kind of file."""
    path = folder / FILE
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.pop("format", None) != FORMAT:
        raise UserError(f"{path}: expected a comparison of format {FORMAT}; choose another compare.dir")
    content["runs"] = [PlannedRun(**run) for run in content["runs"]]
    return Plan(folder=folder, **content)


def make_plan(
    request: Request, configurations: list[Configuration], seeds: list[int], terms: dict[str, Any], command: list[str]
) -> Plan:
    """The plan of configurations that fair terms have been applied to."""
    runs = []
    taken: set[str] = set()
    for seed in seeds:  # all configurations once before the second seed: a partial comparison says something
        for number, one in enumerate(configurations):
            changed = [f"{key}={value}" for key, value in one.changed.items()]
            words = [*one.words, *changed, f"seed={seed}"]
            runs.append(PlannedRun(_folder_name(one.name, seed, taken), number, seed, words))
    described = [
        {"name": c.name, "choice": c.choice, "refused": c.refused, "equal": c.equal, "changed": c.changed}
        for c in configurations
    ]
    return Plan(
        request.folder,
        configurations[0].cfg.name,
        command,
        asked(request),
        terms,
        request.options.target,
        described,
        runs,
    )


def asked(request: Request) -> dict[str, Any]:
    """What decides the runs of a request."""
    options = request.options
    return {"words": request.words, "terms": options.terms, "parameters": options.parameters}


def check_contains(saved: Plan, wanted: Plan) -> None:
    """UserError if `wanted` lacks a run of `saved`: a folder may gain runs, never mix two comparisons."""
    old, new = ({(run.name, *run.words) for run in plan.runs} for plan in (saved, wanted))
    if not old <= new:
        raise UserError(
            f"compare.dir={saved.folder}: holds another comparison; repeat that one by: {shlex.join(saved.command)}, "
            "or choose another compare.dir"
        )


def _folder_name(name: str, seed: int, taken: set[str]) -> str:
    """Letters, digits, dots and dashes only: a path that needs no quoting on a command line."""
    base = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:80] or "run"
    full, number = f"{base}-seed-{seed}", 2
    while full in taken:
        full, number = f"{base}-{number}-seed-{seed}", number + 1
    taken.add(full)
    return full
