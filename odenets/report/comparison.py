"""The report of a comparison, from its folder alone: a page, Markdown and CSV; the table on the terminal."""

from pathlib import Path

from rich.console import Console

from odenets.report import files, page, terminal
from odenets.report.runs import read


def write_report(folder: str | Path) -> Path:
    """Write report.html, report.md and report.csv into the folder and print the table; returns the page's path.

    Raises UserError for a folder without a comparison.
    """
    comparison = read(folder)
    path = comparison.folder / "report.html"
    path.write_text(page.render(comparison), encoding="utf-8")
    path.with_suffix(".md").write_text(files.markdown(comparison), encoding="utf-8")
    path.with_suffix(".csv").write_text(files.table(comparison), encoding="utf-8")
    terminal.show(comparison)
    Console(soft_wrap=True).print(f"report  {path}", highlight=False, markup=False)
    return path
