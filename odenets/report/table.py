"""The result table on the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from odenets.report.curves import label

PERCENT = ("accuracy",)


def show(title: str, rows: dict[str, float], folder: str, plots: Sequence[str] = ()) -> None:
    """Print one line per measure, then where the run is (unwrapped, so that it can be copied)."""
    table = Table(title=title, title_justify="left", show_header=False, min_width=34)
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, value in rows.items():
        table.add_row(label(name), format_value(name, value))
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"run    {folder}", highlight=False, markup=False)
    if plots:
        console.print(f"plots  {', '.join(plots)}", highlight=False, markup=False)


def note_unused(groups: Sequence[str]) -> None:
    """Say on stderr which typed groups change nothing, such as a solver for a stack that takes its own steps."""
    for group in groups:
        text = f"odenets: note: {group}= has no effect here: the chosen model does not use it"
        Console(stderr=True, soft_wrap=True).print(text, highlight=False, markup=False)


def format_value(name: str, value: float | None) -> str:
    """A number with sensible digits: accuracies in percent, seconds to a tenth, counts whole; None was not finite."""
    if value is None:
        return "not finite"
    if any(word in name for word in PERCENT):
        return f"{100 * value:.2f} %"
    if name == "seconds":
        return f"{value:.1f} s"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
