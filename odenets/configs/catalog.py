"""What there is to choose from: every group, its options, and a line about each (the first comment of its file)."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent
APART = "compare"  # grids for `odenets compare`: listed like a group, no part of a run's configuration
ORDER = (
    "experiment",
    "task",
    "data",
    "model",
    "field",
    "block",
    "flow",
    "branch",
    "scheme",
    "solver",
    "gradient",
    "optimizer",
    "trainer",
    "run",
    APART,
)


def groups(config_dir: str | None = None) -> dict[str, list[str]]:
    """Option names per group, the user's own folder included."""
    return {group: [path.stem for path in files] for group, files in _files(config_dir).items() if group != APART}


def descriptions(config_dir: str | None = None) -> dict[str, list[tuple[str, str]]]:
    """`{group: [(option, one line), ...]}` in reading order."""
    return {group: [(path.stem, describe(path)) for path in files] for group, files in _files(config_dir).items()}


def describe(path: Path) -> str:
    """The first comment line of a YAML file that is not a Hydra directive."""
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("#") and not text.startswith("# @package"):
            return text.lstrip("# ").rstrip(".")
    return ""


def _files(config_dir: str | None) -> dict[str, list[Path]]:
    found: dict[str, dict[str, Path]] = {group: {} for group in ORDER}
    for root in filter(None, (ROOT, Path(config_dir) if config_dir else None)):
        if not root.is_dir():
            continue
        for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(("_", "."))):
            for path in sorted(folder.glob("*.yaml")):
                found.setdefault(folder.name, {})[path.stem] = path
    return {group: list(options.values()) for group, options in found.items() if options}
