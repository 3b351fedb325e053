"""Tables in the documentation that a benchmark rewrites: what stands between `<!-- name -->` and `<!-- /name -->`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def about(run: dict[str, Any]) -> str:
    """`describe_run` in one paragraph."""
    machine, versions = run["machine"], run["versions"]
    changed = " with uncommitted changes" if run["uncommitted_changes"] else ""
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"`{run['command']}`, {run['date']}, commit {run['commit']}{changed}; {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['threads']} thread, load {machine['load_average'][0]}; {named}."
    )


def rewrite(file: Path, name: str, text: str) -> None:
    """Put `text` between the marks of that name. Raises ValueError where the file has none."""
    whole = file.read_text()
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if begin not in whole or end not in whole:
        raise ValueError(f"{file} has no marks {begin} ... {end}")
    head, rest = whole.split(begin, 1)
    file.write_text(f"{head}{begin}\n{text.strip()}\n{end}{rest.split(end, 1)[1]}")
