"""The page of a comparison: what the template is filled with. No network, no scripts, no clock: the folder decides."""

import shlex
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from odenets.report import figures, flow_figures
from odenets.report.curves import label
from odenets.report.figures import Shown
from odenets.report.runs import Comparison, Row, Run
from odenets.report.svg import Styles
from odenets.report.table import format_value
from odenets.report.verdict import Cell, Column, cells, columns, is_trained, target_of


@dataclass
class Section:
    """One part of the page: figures, or a table whose first line is its head, or both."""

    id: str
    title: str
    figures: list[Shown] = field(default_factory=list)
    text: str = ""
    table: list[list[str]] = field(default_factory=list)


def render(comparison: Comparison) -> str:
    """The whole page as one HTML document."""
    styles = Styles([row.choice for row in comparison.rows])
    shown = columns(comparison)
    body = [cells(comparison, column) for column in shown]
    environment = Environment(
        loader=PackageLoader("odenets.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("comparison.html.j2").render(
        title=comparison.title,
        heading=heading(comparison),
        summary=summary(comparison),
        terms=comparison.terms["text"],
        counts=counts(comparison),
        machine=machine(comparison),
        sections=sections(comparison, styles),
        columns=shown,
        legend_of_marks=marks(comparison),
        notes=[note for row in comparison.rows for note in notes(row)],
        failures=failures(comparison),
        command=shlex.join(comparison.command),
        rows=[_row(comparison, i, [line[i] for line in body], shown, styles) for i in range(len(comparison.rows))],
    )


def sections(comparison: Comparison, styles: Styles) -> list[Section]:
    """What is to be shown of this comparison, in the order of reading."""
    found = [
        Section("trade-offs", "Quality and cost", figures.trade_offs(comparison, styles)),
        Section("training", "Training curves", figures.training_curves(comparison, styles)),
        Section(
            "steps",
            "Is it an ODE?",
            flow_figures.step_halving(comparison, styles),
            "The trained weights, run with other steps: what has learned a flow does not mind.",
            flow_figures.verdicts(comparison),
        ),
        Section("stability", "Stability regions", flow_figures.stability(comparison, styles)),
        Section("gains", "Gains over depth", flow_figures.gains(comparison, styles)),
        Section("dynamics", "Phase portraits", figures.portraits(comparison, styles)),
    ]
    return [section for section in found if section.figures or section.table]


def _row(comparison: Comparison, i: int, line: list[Cell], shown: list[Column], styles: Styles) -> dict:
    row = comparison.rows[i]
    return {
        "name": row.name,
        "state": state(row),
        "swatch": Markup(styles.swatch(i)),  # our own drawing
        "cells": [Cell(c.values, c.text.removesuffix(f" {column.unit}"), c.mark) for c, column in zip(line, shown)],
        "notes": notes(row),
        "runs": [
            {"seed": run.seed, "about": about(run), "command": command(run), "config": run.config} for run in row.runs
        ],
    }


def state(row: Row) -> str:
    """How many of the row's runs have no result; empty where all have."""
    numbers = {word: sum(run.status == word for run in row.runs) for word in ("failed", "missing")}
    return ", ".join(f"{count} of {len(row.runs)} {word}" for word, count in numbers.items() if count)


def heading(comparison: Comparison) -> str:
    """What was compared, and how much of it."""
    count = len(comparison.rows)
    return f"{comparison.title}: {count} configuration{'s' * (count > 1)} compared"


def summary(comparison: Comparison) -> str:
    """The verdict on the first measure of quality in a sentence or two."""
    if not comparison.measures:
        return "No run has a result yet."
    column = columns(comparison)[0]
    line = cells(comparison, column)
    best = [i for i, cell in enumerate(line) if cell.mark == "best"]
    if not best or 1 < len(best) == sum(bool(cell.values) for cell in line):
        return f"All configurations reach the same {column.title}."
    names = " and ".join(comparison.rows[i].name for i in best)
    text = f"Best {column.title}: {names} with {line[best[0]].text}."
    if not is_trained(comparison):
        return text
    if max(len(row.finished) for row in comparison.rows) < 2:
        return f"{text} With one seed there is no spread to judge differences by: they may be chance."
    tied = [comparison.rows[i].name for i, cell in enumerate(line) if cell.mark == "tied"]
    tested = len(line[best[0]].values) > 1
    rest = [i for i, cell in enumerate(line) if cell.values and not cell.mark]
    behind = [comparison.rows[i].name for i in rest if tested and len(line[i].values) > 1]
    single = [comparison.rows[i].name for i in rest if comparison.rows[i].name not in behind]
    if tied:
        text += f" Not told apart from it by these seeds: {', '.join(tied)}."
    if behind:
        text += f" Behind it: {', '.join(behind)}."
    if single:
        text += f" Not tested, for want of a second result: {', '.join(single)}."
    return text


def counts(comparison: Comparison) -> str:
    """How many runs, seeds and results."""
    runs, done = comparison.runs, sum(run.status == "finished" for run in comparison.runs)
    seeds = len({run.seed for run in runs})
    return f"{len(runs)} runs over {seeds} seed{'s' if seeds > 1 else ''}" + (
        f", {done} with a result" if done < len(runs) else ""
    )


def machine(comparison: Comparison) -> str:
    """Machines, versions, commits and days that the runs recorded."""
    known = [run.versions for run in comparison.runs if run.versions]
    if not known:
        return ""
    parts = [
        [f"{v['machine']['processor']}, {v['machine']['cores']} cores" for v in known],
        ["; ".join(v["machine"]["gpus"]) for v in known],
        [f"torch {v['packages']['torch']}" for v in known],
        [f"commit {v['git'][:12]}{'-dirty' if v['git'].endswith('-dirty') else ''}" for v in known if v["git"]],
        [v["date"][:10] for v in known],
    ]
    return "; ".join(" and ".join(dict.fromkeys(part)) for part in parts if any(part)) + "."


def marks(comparison: Comparison) -> str:
    """What the marks of the verdict table say."""
    text = "Marked: best of its column."
    if any(len(row.finished) > 1 for row in comparison.rows):
        text = "Mean ± standard deviation over seeds. " + text + " ≈: not told apart from it by Welch's test at 95 %."
    target = target_of(comparison)
    if target is not None:
        chosen = "given" if comparison.target is not None else "a level that every run reached"
        text += f" Steps to target: {label(target[0])} {target[1]:.4g}, {chosen}."
    return text


def notes(row: Row) -> list[str]:
    """Which combinations the row stands for, and what fair terms changed."""
    found = []
    if row.equal:
        pairs = ("; ".join(" ".join(f"{k}={v}" for k, v in other.items()) for other in row.equal),)
        found.append(f"{row.name} also stands for {pairs[0]}: the same model, trained once.")
    if row.changed:
        made = ", ".join(f"{key}={value}" for key, value in row.changed.items())
        found.append(f"{row.name} was given {made}.")
    told = [note for run in row.runs for note in run.costs.get("notes", ())]
    told += [f"not diagnosed: {run.diagnostics['skipped']['all']}" for run in row.runs if _not_diagnosed(run)]
    return found + list(dict.fromkeys(f"{row.name}: {note}" for note in told))


def _not_diagnosed(run: Run) -> bool:
    return "all" in run.diagnostics.get("skipped", {})


def failures(comparison: Comparison) -> list[str]:
    """Every run without a result, and why."""
    return [
        f"{row.name}, seed {run.seed}: {run.cause or 'not run yet'}"
        for row in comparison.rows
        for run in row.runs
        if run.status != "finished"
    ]


def about(run: Run) -> str:
    """A run's result in a line."""
    if not run.result:
        return run.cause or "not run yet"
    measured = ", ".join(f"{label(key)} {format_value(key, value)}" for key, value in run.result["measures"].items())
    return f"{measured}; {run.result['steps']:,} steps in {run.result['seconds']:.1f} s"


def command(run: Run) -> str:
    """How to repeat one run: its command with a folder of its own choice."""
    words = [word for word in run.versions.get("command", []) if not word.startswith("run.")]
    return shlex.join(words)
