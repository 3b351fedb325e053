"""Table of finished runs: mean and spread over seeds of every measure, a row per choice that differs between them.

    odenets train -m experiment=digits block=residual,delta seed=0,1,2
    python benchmarks/training_table.py runs/sweeps/<folder> [more folders] --title "Digits"

Prints Markdown: the commit, machine and versions that the runs recorded, then the table. A run without a result is a
row that says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import yaml

IGNORED = ("seed", "run", "trainer.devices")


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {key: value for name, sub in tree.items() for key, value in flatten(sub, f"{prefix}{name}.").items()}


def load(folder: Path) -> dict[str, Any]:
    """Config (flat), result (None if the run did not finish) and versions of a run."""
    result = folder / "result.json"
    return {
        "folder": folder,
        "config": flatten(yaml.safe_load((folder / "config.yaml").read_text())),
        "result": json.loads(result.read_text()) if result.is_file() else None,
        "versions": json.loads((folder / "versions.json").read_text()),
    }


def typed(run: dict[str, Any]) -> dict[str, str]:
    """What the command line chose for this run: {"block": "delta", "seed": "0", ...}."""
    words = [word for word in run["versions"]["command"] if "=" in word]
    return dict(word.split("=", 1) for word in words)


def differing(runs: list[dict[str, Any]]) -> list[str]:
    """Keys of the command lines whose values differ, but for the seed and the folder."""
    keys: dict[str, None] = {}
    for run in runs:
        keys |= dict.fromkeys(typed(run))
    differ = [key for key in keys if len({typed(run).get(key) for run in runs}) > 1]
    return [key for key in differ if key != "seed" and not key.startswith("run.")]


def cell(values: list[float]) -> str:
    if not values:
        return "-"
    mean = statistics.fmean(values)
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{mean:.4g}{spread}"


def table(runs: list[dict[str, Any]]) -> str:
    keys = differing(runs)
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(tuple(typed(run).get(key, "default") for key in keys), []).append(run)
    measures = list(dict.fromkeys(name for run in runs if run["result"] for name in run["result"]["measures"]))
    lines = [
        "| " + " | ".join([*keys, "seeds", *(m.replace("_", " ") for m in measures), "parameters", "seconds"]) + " |",
        "|" + "---|" * (len(keys) + len(measures) + 3),
    ]
    for choice, members in groups.items():
        results = [run["result"] for run in members if run["result"]]
        seeds = f"{len(results)} of {len(members)}" if len(results) < len(members) else str(len(members))
        cells = [cell([r["measures"][m] for r in results if m in r["measures"]]) for m in measures]
        size = f"{results[0]['parameters']:,}" if results else "-"
        seconds = f"{statistics.median(r['seconds'] for r in results):.0f}" if results else "-"
        lines.append("| " + " | ".join([*choice, seeds, *cells, size, seconds]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders that hold some")
    parser.add_argument("--title", default="Runs")
    arguments = parser.parse_args()
    runs = [load(path.parent) for folder in arguments.folders for path in sorted(folder.rglob("config.yaml"))
            if (path.parent / "versions.json").is_file()]  # fmt: skip
    if not runs:
        raise SystemExit(f"no runs found under {', '.join(map(str, arguments.folders))}")
    versions = runs[0]["versions"]
    machine = versions["machine"]
    print(f"## {arguments.title}\n")
    commits = ", ".join(dict.fromkeys(run["versions"]["git"][:12] for run in runs))
    print(f"{machine['processor']}, {machine['cores']} cores; torch {versions['packages']['torch']}; commit {commits}; "
          f"{versions['date'][:10]}. Mean ± standard deviation over seeds; seconds: median.\n")  # fmt: skip
    print(table(runs))


if __name__ == "__main__":
    main()
