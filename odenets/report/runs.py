"""A comparison as its folder holds it: everything a report says is read here, from files alone."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odenets.errors import UserError


@dataclass
class Run:
    """One run: what its folder holds; empty where it holds nothing yet."""

    name: str
    seed: int
    folder: Path
    cause: str = ""  # why it failed
    result: dict[str, Any] = field(default_factory=dict)
    costs: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, float]] = field(default_factory=list)
    config: str = ""
    versions: dict[str, Any] = field(default_factory=dict)
    portrait: dict[str, Any] = field(default_factory=dict)
    diagnostics: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """finished, failed or missing."""
        return "finished" if self.result else "failed" if self.cause else "missing"


@dataclass
class Row:
    """One configuration and its runs, one per seed."""

    name: str
    choice: dict[str, str]
    equal: list[dict[str, str]]
    changed: dict[str, Any]
    runs: list[Run]

    @property
    def finished(self) -> list[Run]:
        """The runs that have a result."""
        return [run for run in self.runs if run.status == "finished"]


@dataclass
class Comparison:
    """All rows, and what the comparison was."""

    folder: Path
    title: str
    command: list[str]
    terms: dict[str, Any]
    target: float | None
    rows: list[Row]

    @property
    def runs(self) -> list[Run]:
        """Every run, row by row."""
        return [run for row in self.rows for run in row.runs]

    @property
    def measures(self) -> list[str]:
        """Names of the task's measures, the most important first."""
        return list(dict.fromkeys(key for run in self.runs for key in run.result.get("measures", {})))


def read(folder: str | Path) -> Comparison:
    """Read a comparison's folder; UserError if it is none."""
    folder = Path(folder)
    path = folder / "comparison.json"
    if not path.is_file():
        raise UserError(f"{folder}: not a comparison: it has no comparison.json; odenets compare makes one")
    plan = json.loads(path.read_text(encoding="utf-8"))
    rows = [Row(c["name"], c["choice"], c["equal"], c["changed"], []) for c in plan["configurations"]]
    for planned in plan["runs"]:
        rows[planned["configuration"]].runs.append(_run(folder / "runs" / planned["name"], planned))
    return Comparison(folder, plan["title"], plan["command"], plan["terms"], plan["target"], rows)


def _run(folder: Path, planned: dict[str, Any]) -> Run:
    config = folder / "config.yaml"
    return Run(
        planned["name"],
        planned["seed"],
        folder,
        cause=_json(folder / "failure.json").get("cause", ""),
        result=_json(folder / "result.json"),
        costs=_json(folder / "costs.json"),
        metrics=_rows(folder / "metrics.csv"),
        config=config.read_text(encoding="utf-8") if config.is_file() else "",
        versions=_json(folder / "versions.json"),
        portrait=_json(folder / "portrait.json"),
        diagnostics=_json(folder / "diagnostics.json"),
    )


def _json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    assert isinstance(content, dict)
    return content


def _rows(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: float(cell) for key, cell in row.items() if cell} for row in csv.DictReader(file)]
