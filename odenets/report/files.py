"""The report as Markdown and as CSV."""

import csv
import io
import shlex

from odenets.report import page
from odenets.report.runs import Comparison
from odenets.report.verdict import cells, columns


def markdown(comparison: Comparison) -> str:
    """The verdict table, what was equal, failures and the command, as Markdown."""
    shown = columns(comparison)
    body = [cells(comparison, column) for column in shown]
    lines = [
        f"# {page.heading(comparison)}",
        "",
        page.summary(comparison),
        "",
        f"Fair terms: {comparison.terms['text']}. {page.counts(comparison)}. {page.machine(comparison)}",
        "",
        "| " + " | ".join(["configuration", *(c.title + (f" ({c.unit})" if c.unit else "") for c in shown)]) + " |",
        "|---|" + "---:|" * len(shown),
    ]
    for i, row in enumerate(comparison.rows):
        line = []
        for column, values in zip(shown, body):
            text = values[i].text.removesuffix(f" {column.unit}")
            line.append(
                f"**{text}**" if values[i].mark == "best" else f"≈ {text}" if values[i].mark == "tied" else text
            )
        lines.append("| " + " | ".join([row.name, *line]) + " |")
    lines += ["", page.marks(comparison)]
    lines += [f"- {note}" for row in comparison.rows for note in page.notes(row)]
    lines += [f"- no result: {failure}" for failure in page.failures(comparison)]
    return "\n".join([*lines, "", f"    {shlex.join(comparison.command)}", ""])


def table(comparison: Comparison) -> str:
    """One line per run with every figure unrounded, as CSV."""
    shown = columns(comparison)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = list(comparison.rows[0].choice)
    writer.writerow(["configuration", *keys, "seed", "status", "cause", *(column.key for column in shown)])
    for row in comparison.rows:
        for run in row.runs:
            values = [column.value(run) for column in shown]
            scaled = ["" if v is None else v * c.scale if c.scale != 1 else v for v, c in zip(values, shown)]
            writer.writerow([row.name, *(row.choice[k] for k in keys), run.seed, run.status, run.cause, *scaled])
    return text.getvalue()
