"""The progress bar: on a terminal only, gone when the run ends."""

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """Epochs done of all, time left and the latest measures, on stderr; silent where stderr is not a terminal."""

    def __init__(self, name: str, epochs: int, done: float, enabled: bool) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[latest]}"),
            console=Console(stderr=True),
            disable=not (enabled and sys.stderr.isatty()),
            transient=True,
        )
        self._task = self._progress.add_task(name, total=epochs, completed=int(done), latest="")

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._progress.stop()

    def update(self, epochs_done: float, latest: dict[str, float]) -> None:
        """Show how far the run is and its latest measures."""
        text = "  ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in latest.items())
        self._progress.update(self._task, completed=int(epochs_done), latest=text)
