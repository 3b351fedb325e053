"""The report of a comparison, from its folder alone: a page, Markdown and CSV; the table on the terminal."""

from pathlib import Path

from rich.console import Console

from odenets.report import terminal
from odenets.report.runs import read


def write_report(folder: str | Path) -> Path:
    """Write report.html, report.md and report.csv into the folder and print the table; returns the page's path."""
    comparison = read(folder)
    page = comparison.folder / "report.html"
    terminal.show(comparison)
    Console(soft_wrap=True).print(f"report  {page}", highlight=False, markup=False)
    return page
