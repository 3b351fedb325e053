"""The verdict table of a comparison on a terminal of 80 columns."""

from rich import box
from rich.console import Console
from rich.table import Table

from odenets.report.runs import Comparison, Row, Run
from odenets.report.verdict import Cell, Column, cells, columns, is_trained

SHORT = {
    "parameters": "params",
    "peak_mb": "memory",
    "steps_to_target": "steps to\ntarget",
    "spikes": "spikes",
    "gradient_error": "gradient\nerror",
}


def show(comparison: Comparison) -> None:
    """Print the table, what its marks mean, and the cause of every failed run."""
    console = Console(highlight=False)
    console.print(f"{comparison.title}: {comparison.terms['text']}", markup=False)
    console.print(verdict_table(comparison))
    several = any(len(row.runs) > 1 for row in comparison.rows)
    alone = "; one seed: differences may be chance" if is_trained(comparison) else ""
    tied = "; ~ not told apart from it (Welch's test, 95 %)" if several else alone
    console.print(f"[bold green]best[/bold green] of its column{tied}", soft_wrap=True)
    for row in comparison.rows:
        for run in row.runs:
            if run.cause:
                text = f"{row.name}, seed {run.seed} failed: {run.cause}"
                console.print(text, style="red", markup=False, soft_wrap=True)


def verdict_table(comparison: Comparison) -> Table:
    """Quality with its spread; means of parameters, time of a step, memory, steps to target and spikes. Where nothing is
    trained, evaluations and the gradient's error instead of what belongs to training."""
    known = {column.key: column for column in columns(comparison)}
    known["step_ms"] = Column("step_ms", "step", _step_seconds, unit="ms", scale=1e3)
    own = ("parameters", "step_ms", "peak_mb", "steps_to_target", "spikes")
    keys = [
        *comparison.measures[:1],
        *(own if is_trained(comparison) else ("nfe", "step_ms", "peak_mb", "gradient_error")),
    ]
    shown = [known[key] for key in keys if key in known and any(known[key].value(r) for r in comparison.runs)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("")
    for column in shown:
        name = SHORT.get(column.key, column.title)
        table.add_column(name + (f"\n{column.unit}" if column.unit else ""), justify="right", no_wrap=True)
    body = [cells(comparison, column) for column in shown]
    for i, row in enumerate(comparison.rows):
        line = [_text(values[i], column, comparison) for column, values in zip(shown, body)]
        table.add_row(row.name + _state(row), *line)
    return table


def _text(cell: Cell, column: Column, comparison: Comparison) -> str:
    if column.key in comparison.measures:
        text = cell.text.removesuffix(f" {column.unit}")
    else:
        value = cell.mean * column.scale
        text = "–" if not cell.values else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return f"[bold green]{text}[/bold green]" if cell.mark == "best" else f"~{text}" if cell.mark == "tied" else text


def _step_seconds(run: Run) -> float | None:
    costs = run.costs
    return costs["forward_seconds"] + costs["backward_seconds"] if "forward_seconds" in costs else None


def _state(row: Row) -> str:
    counts = {state: sum(run.status == state for run in row.runs) for state in ("failed", "missing")}
    return "".join(f", {count} {state}" for state, count in counts.items() if count)
